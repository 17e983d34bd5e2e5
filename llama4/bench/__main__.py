"""`python -m llama4.bench`."""

import sys

from llama4.bench.running import main

sys.exit(main())
