"""What every backend owes, as tests: ``pytest --pyargs ptq.conformance -k NAME`` runs them on a backend of your own."""
