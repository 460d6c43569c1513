"""For all tests beside the kernel they run on."""

import signal

# A shell without job control starts what goes to the background with SIGINT ignored, and children
# inherit that: those that are to be interrupted would not be.
signal.signal(signal.SIGINT, signal.default_int_handler)
