"""What a server's answers are worth: lm_eval against its endpoint, and answers laid side by side, in a job of its own."""
