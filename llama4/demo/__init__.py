"""`llama4 demo`: a tour of a minute on two cores. What is shown (pictures), what is asked and printed (tour), the picture of it
(figure)."""
