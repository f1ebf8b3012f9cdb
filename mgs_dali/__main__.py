"""``mgs-dali`` and ``python -m mgs_dali``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command of this process. The doctor comes where packages are missing, too, and so without the rest."""
    if sys.argv[1:2] == ["doctor"]:
        from . import doctor  # noqa: PLC0415

        return doctor.main(sys.argv[2:])
    try:
        from . import cli  # noqa: PLC0415
    except ImportError as error:
        print(f"error: {error}. See what is missing with: mgs-dali doctor", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
