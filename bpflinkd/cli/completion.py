"""Tab completion: click's, with a script for bash that copes with the colon in `xdp:eth0`.

Bash takes words apart at colons (COMP_WORDBREAKS), and click's own script believes it.
"""

import os
from typing import Any, Final

from click.shell_completion import BashComplete, add_completion_class, shell_complete, split_arg_string

from bpflinkd.cli.group import bpflinkctl
from bpflinkd.cli.settings import Settings

_BASH: Final = """\
%(complete_func)s() {
    local IFS=$'\\n' line reply kind word typed
    line="${COMP_LINE:0:COMP_POINT}"
    typed="${line##*[[:space:]]}"
    reply=$(env COMP_LINE="$line" %(complete_var)s=bash_complete $1 2>/dev/null)
    COMPREPLY=()
    for word in $reply; do
        kind="${word%%%%,*}"
        word="${word#*,}"
        case "$kind" in
            dir) COMPREPLY=(); compopt -o dirnames; return ;;
            file) COMPREPLY=(); compopt -o default; return ;;
        esac
        [[ $word == */ ]] && compopt -o nospace
        # Readline puts in the part behind the last colon only, where colons part words.
        if [[ $typed == *:* && $COMP_WORDBREAKS == *:* ]]; then
            word="${word#"${typed%%"${typed##*:}"}"}"
        fi
        COMPREPLY+=("$word")
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Reads the whole line, and takes it apart as a shell would, colons left in words."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """Click runs bash to learn its version; `complete -o nosort` needs 4.4, which is of 2016."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that one so far."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        if not words or line[-1:].isspace():
            return words, ""
        return words[:-1], words[-1]


def answer(program: str, variable: str, instruction: str) -> int:
    """Print the script that a shell sources, or the completions that it asks for."""
    add_completion_class(Bash, "bash")
    arguments: dict[str, Any] = {"obj": Settings()}
    return shell_complete(bpflinkctl, arguments, program, variable, instruction)
