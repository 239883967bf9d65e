"""The command ``callic-archive``: what a signal does while the program is still being loaded, and the way to the verbs."""

import os
import signal
import sys

# Nothing else is imported before signals are answered: click and the verbs take a tenth of a second.
_ASKED = {
    signal.SIGINT: ("interrupted", 130, "E621"),
    **dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP), ("stopped", 75, "E620")),
}


def main(arguments: "list[str] | None" = None) -> None:
    """Entry point; ends the process with an exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)

    def leave(number: int, frame: object) -> None:
        # Loading a library that is interrupted fails in its own way, if it does at all: so the process ends here.
        how, code, error = _ASKED[signal.Signals(number)]
        message = f"{how} before anything was begun"
        os.write(2, f"callic-archive: {message} [{error}]\n".encode())
        if "--json" in words:
            os.write(1, _SUMMARY.format(words[0] if words[0].isalpha() else "", code, error, message).encode())
        os._exit(code)

    for number in _ASKED:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else it is ignored, or not ours
            signal.signal(number, leave)
    from callic_archive.cli.verbs import run

    run(words)


_SUMMARY = (
    '{{"v": 1, "event": "summary", "verb": "{}", "exit_code": {}, "seconds": 0.0, "problems": 0, '
    '"error": {{"code": "{}", "message": "{}"}}}}\n'
)


if __name__ == "__main__":
    main()
