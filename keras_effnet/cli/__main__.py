"""``python -m keras_effnet.cli``: ``effnet`` if scripts are not on the path."""

import sys

from keras_effnet.cli import main

sys.exit(main())
