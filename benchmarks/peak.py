"""How much memory this process has had at most."""

import re
from pathlib import Path


def peak_memory():
    """MiB; Linux. (`ru_maxrss` would begin with what the process that started this one has had.)"""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
