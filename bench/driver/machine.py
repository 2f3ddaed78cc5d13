"""The machine and the versions that a report came from."""

import os
import re
import shutil
import subprocess


def read(path, pattern=None):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    if pattern is None:
        return text.strip()
    match = re.search(pattern, text, re.M)
    return match.group(1).strip() if match else None


def said(*command):
    """The first line that a command prints, or None."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def package(name):
    return said("pkg-config", "--modversion", name)


def boost_version():
    number = read("/usr/include/boost/version.hpp", r'BOOST_LIB_VERSION "([\d_]+)"')
    return number.replace("_", ".") if number else None


def libev_version():
    numbers = [read("/usr/include/ev.h", rf"EV_VERSION_{part}\s+(\d+)")
               for part in ("MAJOR", "MINOR")]
    return ".".join(numbers) if all(numbers) else None


def haproxy_version():
    path = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    line = said(path, "-v") if path else None
    match = re.search(r"version (\S+)", line or "")
    return match.group(1) if match else None


def built_with(build, variable):
    return read(os.path.join(build, "CMakeCache.txt"), rf"^{variable}:\w+=(.*)") or ""


def pier_version(source):
    """The version and the commit that the build was made from, as the sources are now."""
    version = read(os.path.join(source, "include/pier/pier.h"), r'PIER_VERSION_STRING "(.*)"')
    commit = said("git", "-C", source, "describe", "--always", "--dirty", "--abbrev=7")
    return f"{version} ({commit})" if version and commit else version


def versions(build):
    compiler = built_with(build, "CMAKE_C_COMPILER")
    found = {
        "pier": pier_version(built_with(build, "CMAKE_HOME_DIRECTORY")),
        "compiler": said(compiler, "--version") if compiler else None,
        "libc": said("getconf", "GNU_LIBC_VERSION"),
        "liburing": package("liburing"),
        "libev": libev_version(),
        "libuv": package("libuv"),
        "libevent": package("libevent"),
        "Boost": boost_version(),
        "Go": (said("go", "version") or "").removeprefix("go version ") or None,
        "HAProxy": haproxy_version(),
        "valgrind": said("valgrind", "--version"),
    }
    return {name: version for name, version in found.items() if version}


def describe():
    kibibytes = int(read("/proc/meminfo", r"MemTotal:\s+(\d+)") or 0)
    virtual = re.search(r"\bhypervisor\b", read("/proc/cpuinfo") or "") is not None
    return {
        "processor": read("/proc/cpuinfo", r"model name\s*:\s*(.*)") or os.uname().machine,
        "processors": len(os.sched_getaffinity(0)),
        "memory": f"{kibibytes / (1 << 20):.1f} GiB",
        "virtual machine": "yes" if virtual else "no",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "system": read("/etc/os-release", r'PRETTY_NAME="?([^"\n]*)') or "unknown",
        "open files": str(os.sysconf("SC_OPEN_MAX")),
        "load average at the start": read("/proc/loadavg", r"^(\S+)"),
    }
