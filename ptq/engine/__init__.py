"""Engine: from a workload to what is measured of each case, with everything kept in a store."""
