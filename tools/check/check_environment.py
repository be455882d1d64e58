#!/usr/bin/env python3
"""The environment is read in the option table's reader alone, and never changed."""
import re

from common import finish, lines, sources

READER = "src/base/option_value.c"
CALL = re.compile(r"\b(getenv|secure_getenv|setenv|putenv|unsetenv|clearenv)\s*\(|\benviron\b")

finish([f"{path}:{number}: {match[0].rstrip('( ')} outside {READER}: make it an option (src/cmd/options.c)"
        for path in sources("src") if str(path) != READER
        for number, line in lines(path) if (match := CALL.search(line))])
