"""The shipped suite: ``pytest --pyargs ptq.suite -m accuracy`` judges whatever workloads conftest.py declares."""
