"""A package that extends ptq from outside: one backend, one method, one metric, one workload."""
