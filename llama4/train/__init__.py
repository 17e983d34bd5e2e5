"""Training the small default model from scratch: its data, its tasks, its loop. Nothing outside this folder but the command line
knows of it; it acts on a model from outside, as loading and quantising do."""
