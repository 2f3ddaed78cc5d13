# CPython: Modules/selectmodule.c, built against Debian's python3.11 with kqueue instead of epoll,
# is loaded in the place of its own. asyncio and selectors then choose kqueue by themselves.
package=python3.11
needs='gcc /usr/bin/python3.11 /usr/include/python3.11/Python.h'

build()
{
    mkdir -p "$scratch"
    gcc -shared -fPIC -O2 -DPy_BUILD_CORE_MODULE=1 -UHAVE_EPOLL \
        -include "$here/cpython_config.h" -I/usr/include/python3.11 \
        -I/usr/include/python3.11/internal -I"$include" -o "$scratch/pier_select.so" \
        Modules/selectmodule.c "$library" -pthread
}

check()
{
    # Its test package, and a start-up file that puts the module in the place of the built-in one.
    ln -s "$PWD/Lib/test" "$scratch/test"
    cat >"$scratch/sitecustomize.py" <<END
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("select", "$scratch/pier_select.so")
spec = importlib.util.spec_from_file_location("select", "$scratch/pier_select.so", loader=loader)
sys.modules["select"] = importlib.util.module_from_spec(spec)
loader.exec_module(sys.modules["select"])
END
    export PYTHONPATH="$scratch"
    cd "$scratch"
    python3.11 -c 'import selectors, select, asyncio
assert not hasattr(select, "epoll")
assert selectors.DefaultSelector is selectors.KqueueSelector
print("selectors.DefaultSelector is", selectors.DefaultSelector.__name__)'
    python3.11 -m test -j "$jobs" --timeout 300 test_kqueue test_select test_selectors \
        test_subprocess test_asyncio
    python3.11 -m test -u network test_socketserver # on 127.0.0.1 only
    echo 'selectors.DefaultSelector is KqueueSelector; test_kqueue, test_select, test_selectors,' \
        'test_subprocess, test_socketserver, test_asyncio'
}
