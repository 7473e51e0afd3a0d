"""What the ledger proves or the subject claims."""
