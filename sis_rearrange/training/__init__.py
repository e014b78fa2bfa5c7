"""Training loops: each is one function that reads data or a pack, writes into a run folder and can be resumed."""
