"""Which method, with which setting, for these noisy images? Clean ones are not needed.

python studies/which_method.py --noisy FOLDER
"""

import sys

from cluster.race.command import main

if __name__ == "__main__":
    sys.exit(main())
