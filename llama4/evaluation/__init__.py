"""`llama4 eval`: what the small default model knows, measured on pictures by an artist that it never saw.

Each file is one idea: what an answer must be (scoring), how sure a share is (intervals), the questions (wordings, drawings,
suites, augmenting, scenes, swapping), the asking (asking), the experts and the attention (experts, routing, attending), what
comes of it (report, figure, style), and the command (running).
"""
