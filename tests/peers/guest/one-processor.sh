# One processor: the kernel's driver, what a reset of the machine keeps and clears.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reset.sh"

step pcr-zero-at-power-on cleared
step never-late never_late
reset_or_finish
