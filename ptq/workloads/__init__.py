"""The workloads ptq brings. One file a workload, found by its name: ``WORKLOAD(data) -> Workload``."""
