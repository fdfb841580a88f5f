"""What conprof reads of CPython's private structures: the cells of the layout matrix.

A field is named by what opens its structure, in any header of CPython's or in our own sources, and
by its name. Which of several names or structures there is depends on the version; one that is in
none of the files is no cell there.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIELDS", "QUICK", "Field"]


@dataclass(frozen=True)
class Field:
    """A member of a structure whose place matters.

    Attributes:
        struct: what people call the structure; with the member's name it names the cell.
        opening: regular expression that ends with the brace (or macro) that opens it.
        member: name of the member.
        type: how C names it, to prove that the doctored copy differs; empty for a structure that
            no header of CPython's declares.
        within: what leads from that type to the structure, where it has no name of its own.
    """

    struct: str
    opening: str
    member: str
    type: str = ""
    within: str = ""

    @property
    def name(self) -> str:
        return f"{self.struct}.{self.member}"


def _fields(struct: str, opening: str, type_: str, members: str, within: str = "") -> list[Field]:
    return [Field(struct, opening, member, type_, within) for member in members.split()]


FIELDS = [
    *_fields(
        "_ts",
        r"struct _ts \{",
        "PyThreadState",
        "prev next interp thread_id native_thread_id cframe current_frame base_frame dict context"
        " context_ver datastack_chunk datastack_top",
    ),
    *_fields("_PyCFrame", r"typedef struct _PyCFrame \{", "_PyCFrame", "current_frame"),
    *_fields(
        "_PyThreadStateImpl",
        r"typedef struct _PyThreadStateImpl \{",
        "_PyThreadStateImpl",
        "asyncio_running_loop",
    ),
    *_fields(
        "_PyInterpreterFrame",
        r"(typedef )?struct _PyInterpreterFrame \{",
        "struct _PyInterpreterFrame",
        "f_code f_executable previous prev_instr instr_ptr owner localsplus",
    ),
    *_fields("_PyStackChunk", r"struct _stack_chunk \{", "_PyStackChunk", "previous size top data"),
    *_fields(
        "PyCodeObject",
        r"#define _PyCode_DEF\(SIZE\)\s*\{",
        "PyCodeObject",
        "co_exceptiontable co_argcount co_stacksize co_firstlineno co_nlocalsplus co_filename"
        " co_name co_qualname co_linetable co_code_adaptive",
    ),
    *_fields("PyGenObject", r"#define _PyGenObject_HEAD\(prefix\)", "PyGenObject", "gi_iframe"),
    *_fields("PyFrameObject", r"struct _frame \{", "PyFrameObject", "f_frame"),
    *_fields("PyContext", r"struct _pycontextobject \{", "PyContext", "ctx_vars ctx_entered"),
    *_fields("PyContextVar", r"struct _pycontextvarobject \{", "PyContextVar", "var_hash"),
    *_fields("PyHamtObject", r"typedef struct \{(?=[^}]*\bh_root\b)", "PyHamtObject", "h_root"),
    *_fields("_is", r"struct _is \{", "PyInterpreterState", "ceval"),
    *_fields("_ceval_state", r"struct _ceval_state \{", "struct _ceval_state", "gil"),
    *_fields(
        "_ceval_runtime_state",
        r"struct _ceval_runtime_state \{",
        "struct _ceval_runtime_state",
        "gil",
    ),
    *_fields(
        "_gil_runtime_state",
        r"struct _gil_runtime_state \{",
        "struct _gil_runtime_state",
        "last_holder locked",
    ),
    *_fields(
        "_PyRuntimeState",
        r"typedef struct pyruntimestate \{|struct pyruntimestate \{",
        "_PyRuntimeState",
        "interpreters",
    ),
    *_fields(
        "pyinterpreters",
        r"struct pyinterpreters \{",
        "_PyRuntimeState",
        "head main",
        "interpreters.",
    ),
    # CPython's own table of offsets, which an extension reads in the layout of its headers.
    *_fields(
        "_Py_DebugOffsets",
        r"typedef struct _Py_DebugOffsets \{",
        "struct _Py_DebugOffsets",
        "version runtime_state interpreter_state thread_state interpreter_frame code_object",
    ),
    # What no header declares is declared in our own sources.
    *_fields("conprof_hamt_bitmap_node", r"typedef struct \{(?=[^}]*\bb_bitmap\b)", "", "b_bitmap"),
    *_fields("conprof_hamt_array_node", r"typedef struct \{(?=[^}]*\ba_array\b)", "", "a_array"),
    *_fields("conprof_heap_pool", r"struct conprof_heap_pool \{", "", "free next size_class"),
    *_fields("PyRunningLoopHolder", r"struct holder \{", "", "loop"),
]

# One of each kind of way to find out, for the plain suite.
QUICK = (
    ("_ts.datastack_chunk", "added"),
    ("_PyThreadStateImpl.asyncio_running_loop", "removed"),
    ("_ceval_state.gil", "added"),
)
