"""How far can criteria without clean images be trusted? Their agreement with true PSNR over all that a store holds.

python studies/criterion_agreement.py --store results
"""

import sys

from cluster.agreement.command import main

if __name__ == "__main__":
    sys.exit(main())
