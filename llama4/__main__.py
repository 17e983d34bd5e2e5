"""`python -m llama4`: the command `llama4`, where its script is not on the path."""

import sys

from llama4.cli import main

sys.exit(main())
