"""`python -m pytest_avo.command`, for where no script is installed."""

import sys

from pytest_avo.command.main import main

sys.exit(main())
