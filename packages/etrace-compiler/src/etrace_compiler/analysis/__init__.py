"""Which parameter drives which hidden states, found in the traced program."""
