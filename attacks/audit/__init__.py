"""Evidence tests: each watches a training and says whether it did what its ledger says."""
