"""The ledger: append-only entries, put in order by one sequencer; cursors read them."""
