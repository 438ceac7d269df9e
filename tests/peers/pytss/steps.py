"""What every script of tpm2-pytss uses: each step is a function, its return value what was seen.

A script prints the lines that `tests/peers/guest/lib.sh` explains, for the host to read.
"""

import sys

_steps = []


def step(function):
    """Marks a function as a step; they run in the order of the file."""
    _steps.append(function)
    return function


def run(*arguments):
    """Runs every step, whatever the others said."""
    failed = False
    for function in _steps:
        name = function.__name__.replace("_", "-")
        try:
            seen = function(*arguments)
            print(f"HUSK-STEP {name} PASS {seen}", flush=True)
        except Exception as error:  # whatever goes wrong is the step's verdict
            failed = True
            print(f"HUSK-STEP {name} FAIL {type(error).__name__}: {error}".replace("\n", " "), flush=True)
    print("HUSK-END", "FAIL" if failed else "PASS", flush=True)
    sys.exit(failed)


def refused(call, *arguments, **named):
    """Fails unless the call does; yields the error's text."""
    from tpm2_pytss import TSS2_Exception

    try:
        call(*arguments, **named)
    except TSS2_Exception as error:
        return str(error)
    raise AssertionError("it was not refused")
