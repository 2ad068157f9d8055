"""The causes ptq knows. One file a cause, found by being there: ``CAUSE``, a `ptq.diagnosis.finding.Cause`."""
