"""What is said during a call: progress, log messages, questions and answers, across eras and processes."""
