"""Names that stand in files made to do harm. Nothing is ever called here, so the list decides about a message only:
a file with one of these is refused whatever else it holds, while other unknown names are noted.
"""

from __future__ import annotations

_MODULES = frozenset((
    "os", "posix", "nt", "ntpath", "posixpath", "subprocess", "sys", "importlib", "imp", "runpy", "pickle",
    "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "shutil", "socket", "ssl", "ctypes",
    "_ctypes", "cffi", "code", "codeop", "pty", "commands", "popen2", "inspect", "operator", "_operator",
    "webbrowser", "http", "httplib", "httplib2", "urllib", "urllib2", "urllib3", "requests", "aiohttp", "ftplib",
    "smtplib", "poplib", "imaplib", "telnetlib", "nntplib", "xmlrpc", "asyncio", "timeit", "trace", "pdb", "bdb",
    "doctest", "cProfile", "profile", "pip", "ensurepip", "venv", "virtualenv", "idlelib", "lib2to3", "distutils",
    "setuptools", "pkg_resources", "pkgutil", "pydoc", "zipimport", "zipapp", "site", "gc", "atexit",
    "faulthandler", "sqlite3", "tempfile", "fileinput", "linecache", "platform", "rlcompleter", "getpass",
    "_posixsubprocess", "_winapi", "winreg", "msvcrt", "nturl2path", "concurrent", "sched", "this", "antigravity",
))  # fmt: skip
_BUILTINS = ("builtins", "__builtin__")
_HARMLESS_BUILTINS = frozenset((
    "set", "frozenset", "list", "dict", "tuple", "int", "long", "float", "bool", "str", "unicode", "bytes",
    "bytearray", "complex", "slice", "range", "xrange", "object", "type", "Ellipsis", "NotImplemented", "getattr",
    "abs", "all", "any", "callable", "chr", "divmod", "enumerate", "filter", "format", "hash", "isinstance",
    "issubclass", "iter", "len", "map", "max", "memoryview", "min", "ord", "pow", "print", "property", "repr",
    "reversed", "round", "sorted", "sum", "zip", "KeyboardInterrupt", "StopIteration", "SystemExit",
))  # fmt: skip
"""getattr is how Python writes members of classes; where it is called it is looked at more closely."""
_HARMLESS_ENDINGS = ("Error", "Exception", "Warning")
_NAMES = (
    "_io", "io.FileIO", "io.open", "io.open_code", "codecs.open", "types.CodeType", "types.FunctionType",
    "types.LambdaType", "types.MethodType", "types.ModuleType", "functools.reduce", "functools.partialmethod",
    "logging.config", "multiprocessing.util", "threading.Thread", "_thread", "torch.load", "torch.hub", "torch.jit",
    "torch.ops", "torch.classes", "torch.package", "torch.serialization.load", "torch._dynamo", "torch._inductor",
    "torch.compile", "torch.distributed.rpc", "torch.distributed.launcher", "torch.distributed.run",
    "torch.multiprocessing.spawn", "torch.utils.bottleneck", "torch.utils.collect_env", "torch.utils.cpp_extension",
    "torch.utils._config_module", "torch.utils.data.datapipes.utils.decoder", "torch.utils.hipify", "torch.fx",
    "torch.cuda.jiterator", "numpy.load", "numpy.save", "numpy.savez", "numpy.savetxt", "numpy.loadtxt",
    "numpy.genfromtxt", "numpy.fromfile", "numpy.memmap", "numpy.testing", "numpy.f2py", "numpy.distutils",
    "numpy.core._internal", "pandas.eval", "pandas.read_pickle", "pandas.core.computation", "pandas.io",
    "sympy.sympify", "sympy.parsing", "yaml.load", "yaml.unsafe_load", "mindspore.load", "mindspore.load_checkpoint",
    "mindspore.ops", "paddle.load", "tensorflow.io", "tensorflow.keras", "keras.models",
)  # fmt: skip
_MAKERS = frozenset(
    f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in ("__newobj__", "__newobj_ex__")
)


def is_dangerous(name: str) -> bool:
    """Whether a full name (`module.name`) is known from files that run code, or reaches inside of objects."""
    parts = name.split(".")
    if parts[0] in _BUILTINS:
        return len(parts) != 2 or not (parts[1] in _HARMLESS_BUILTINS or parts[1].endswith(_HARMLESS_ENDINGS))
    if parts[0] in _MODULES or any(f"{name}.".startswith(f"{known}.") for known in _NAMES):
        return True
    inner = parts[1:] if parts[0] == "__main__" else parts
    return name not in _MAKERS and any(part.startswith("__") and part.endswith("__") for part in inner)
