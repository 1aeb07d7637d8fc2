"""One call: from what a client wants to its answer, and the words of a refusal."""
