"""Run a command, and write the MiB that its largest process took as the last line of stderr."""

import resource
import subprocess
import sys

done = subprocess.run(sys.argv[1:], check=False)
mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
sys.stderr.write(f"\n{mib:.1f}\n")
sys.exit(done.returncode)
