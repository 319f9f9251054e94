"""What a compiled model offers to C: the functions as LLVM text, and the header.

The text is the same for every model: it reads sizes and tables through the symbol `lpir_model` (layout: `MODEL`), which
lies in the same library. A request is one piece of memory: 64 bytes that say where the rest is, the pool of the
executor, parameter words, steps, and the arena in which all tensors lie.
"""

from __future__ import annotations

from lpir.devices.cpu.aot.checks import PERMISSION, STATES
from lpir.devices.cpu.codegen.effort import QUICK
from lpir.devices.cpu.codegen.executor import HEADER_BYTES
from lpir.devices.cpu.permission import ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA

# 64-bit words of `lpir_model`, in order; tables are pointers
MODEL = (
    "format",
    "threads",
    "words",
    "words_count",
    "fixups",
    "fixups_count",
    "steps",
    "steps_count",
    "arena_bytes",
    "inputs",
    "inputs_count",
    "outputs",
    "outputs_count",
    "checks",
    "checks_count",
    "info",
    "info_bytes",
)
# of a tensor: name, type, rank, shape, bytes as the header has them; address of a constant or 0; offset in the arena
TENSOR_WORDS = 7
# of a request: what `malloc` gave, pool, steps, number of steps, arena
REQUEST = ("raw", "pool", "steps", "steps_count", "arena")

# name in C without prefix -> symbol
FUNCTIONS = {
    name: f"lpir_c_{name}"
    for name in ("supported", "threads", "inputs", "outputs", "input", "output", "create", "destroy")
} | {name: f"lpir_c_{name}" for name in ("input_data", "output_data", "run", "serve", "stop")}

_FIELD = "  %{0}.at = getelementptr i64, ptr @lpir_model, i64 {1}\n  %{0} = load {2}, ptr %{0}.at, align 8\n"
_OWN = "  %{0}.at = getelementptr i64, ptr %request, i64 {1}\n  %{0} = load {2}, ptr %{0}.at, align 8\n"
_POINTERS = {"words", "fixups", "steps", "inputs", "outputs", "checks", "info"}


def _field(name: str) -> str:
    """Loads a field of the model into %name."""
    return _FIELD.format(name, MODEL.index(name), "ptr" if name in _POINTERS else "i64")


def _own(name: str) -> str:
    """Loads a field of %request into %name."""
    return _OWN.format(name, REQUEST.index(name), "i64" if name == "steps_count" else "ptr")


_PERMIT = f"i64 (i64, ...) @syscall(i64 {ARCH_PRCTL}, i64 {REQUEST_PERMISSION}, i64 {TILE_DATA})"
_CPUID = '"={ax},={bx},={cx},={dx},{ax},{cx}"'
# what a check reads, into %bits
_READ_X86 = f"""  %permission = icmp eq i32 %leaf, {PERMISSION}
  br i1 %permission, label %ask, label %processor
ask:
  %refused = call {_PERMIT}
  %granted = icmp eq i64 %refused, 0
  %grant = zext i1 %granted to i32
  br label %after.read
processor:
  %extended = icmp eq i32 %leaf, {STATES}
  br i1 %extended, label %states, label %id
states:
  %x = call {{ i32, i32 }} asm sideeffect "xgetbv", "={{ax}},={{dx}},{{cx}}"(i32 0)
  %state = extractvalue {{ i32, i32 }} %x, 0
  br label %after.read
id:
  %r = call {{ i32, i32, i32, i32 }} asm sideeffect "cpuid", {_CPUID}(i32 %leaf, i32 %sub)
  %ax = extractvalue {{ i32, i32, i32, i32 }} %r, 0
  %bx = extractvalue {{ i32, i32, i32, i32 }} %r, 1
  %cx = extractvalue {{ i32, i32, i32, i32 }} %r, 2
  %dx = extractvalue {{ i32, i32, i32, i32 }} %r, 3
  %is.b = icmp eq i32 %reg, 1
  %ab = select i1 %is.b, i32 %bx, i32 %ax
  %is.c = icmp eq i32 %reg, 2
  %abc = select i1 %is.c, i32 %cx, i32 %ab
  %is.d = icmp eq i32 %reg, 3
  %abcd = select i1 %is.d, i32 %dx, i32 %abc
  br label %after.read
after.read:
  %bits = phi i32 [ %grant, %ask ], [ %state, %states ], [ %abcd, %id ]
"""
_READ_ARM = """  %kind = zext i32 %leaf to i64
  %word = call i64 @getauxval(i64 %kind)
  %bits = trunc i64 %word to i32
"""
_SUPPORTED = f"""
declare ptr @calloc(i64, i64)
declare void @free(ptr)
{{DECLARE}}
declare void @submit(ptr, ptr, i64)
declare void @worker(ptr, i64)
declare void @stop(ptr)
@lpir_model = external hidden global [{len(MODEL)} x i64]

; a check is four i32: leaf of cpuid ({STATES}: xgetbv, {PERMISSION}: tiles are permitted), subleaf, register, bits
; that must be set. On Arm: kind of the word that the system tells of the processor, 0, 0, bits
define i32 @lpir_c_supported() {{
entry:
{_field("checks")}{_field("checks_count")}  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %after ]
  %more = icmp slt i64 %i, %checks_count
  br i1 %more, label %check, label %yes
check:
  %at = getelementptr [4 x i32], ptr %checks, i64 %i
  %leaf = load i32, ptr %at, align 4
  %sub.at = getelementptr i32, ptr %at, i64 1
  %sub = load i32, ptr %sub.at, align 4
  %reg.at = getelementptr i32, ptr %at, i64 2
  %reg = load i32, ptr %reg.at, align 4
  %mask.at = getelementptr i32, ptr %at, i64 3
  %mask = load i32, ptr %mask.at, align 4
{{READ}}  %set = and i32 %bits, %mask
  %all = icmp eq i32 %set, %mask
  br i1 %all, label %after, label %no
after:
  %next = add i64 %i, 1
  br label %head
yes:
  ret i32 1
no:
  ret i32 0
}}
"""

_CREATE = f"""
define ptr @lpir_c_create(i64 %threads.wanted) {{
entry:
{_field("threads")}  %enough = icmp sgt i64 %threads.wanted, 0
  %few = icmp sle i64 %threads.wanted, %threads
  %fits = and i1 %enough, %few
  br i1 %fits, label %look, label %never
look:
  %can = call i32 @lpir_c_supported()
  %runs = icmp ne i32 %can, 0
  br i1 %runs, label %size, label %never
never:
  ret ptr null
size:
{"".join(map(_field, ("words", "words_count", "fixups", "fixups_count", "steps", "steps_count", "arena_bytes")))}
  %lines = shl i64 %threads.wanted, 6
  %words.begin = add i64 %lines, {HEADER_BYTES + 64}
  %words.bytes = shl i64 %words_count, 3
  %steps.begin = add i64 %words.begin, %words.bytes
  %steps.bytes = shl i64 %steps_count, 4
  %end = add i64 %steps.begin, %steps.bytes
  %end.up = add i64 %end, 63
  %arena.begin = and i64 %end.up, -64
  %whole = add i64 %arena.begin, %arena_bytes
  %whole.up = add i64 %whole, 64
  %raw = call ptr @calloc(i64 1, i64 %whole.up)
  %none = icmp eq ptr %raw, null
  br i1 %none, label %never, label %fill
fill:
  %number = ptrtoint ptr %raw to i64
  %up = add i64 %number, 63
  %base = and i64 %up, -64
  %request = inttoptr i64 %base to ptr
  %pool = getelementptr i8, ptr %request, i64 64
  %own.words = getelementptr i8, ptr %request, i64 %words.begin
  %own.steps = getelementptr i8, ptr %request, i64 %steps.begin
  %arena = getelementptr i8, ptr %request, i64 %arena.begin
  %arena.number = ptrtoint ptr %arena to i64
  store ptr %raw, ptr %request, align 8
  %at.1 = getelementptr i64, ptr %request, i64 1
  store ptr %pool, ptr %at.1, align 8
  %at.2 = getelementptr i64, ptr %request, i64 2
  store ptr %own.steps, ptr %at.2, align 8
  %at.3 = getelementptr i64, ptr %request, i64 3
  store i64 %steps_count, ptr %at.3, align 8
  %at.4 = getelementptr i64, ptr %request, i64 4
  store ptr %arena, ptr %at.4, align 8
  store i64 %threads.wanted, ptr %pool, align 8
  %spins.at = getelementptr i64, ptr %pool, i64 1
  store i64 4000, ptr %spins.at, align 8
  br label %words.head
words.head:
  %i = phi i64 [ 0, %fill ], [ %i.next, %word ]
  %i.more = icmp slt i64 %i, %words_count
  br i1 %i.more, label %word, label %fixups.head
word:
  %from = getelementptr i64, ptr %words, i64 %i
  %content = load i64, ptr %from, align 8
  %to = getelementptr i64, ptr %own.words, i64 %i
  store i64 %content, ptr %to, align 8
  %i.next = add i64 %i, 1
  br label %words.head
fixups.head:
  %k = phi i64 [ 0, %words.head ], [ %k.next, %fixup ]
  %k.more = icmp slt i64 %k, %fixups_count
  br i1 %k.more, label %fixup, label %steps.head
fixup:
  %index.at = getelementptr i32, ptr %fixups, i64 %k
  %index = load i32, ptr %index.at, align 4
  %index.wide = zext i32 %index to i64
  %target = getelementptr i64, ptr %own.words, i64 %index.wide
  %offset = load i64, ptr %target, align 8
  %address = add i64 %offset, %arena.number
  store i64 %address, ptr %target, align 8
  %k.next = add i64 %k, 1
  br label %fixups.head
steps.head:
  %s = phi i64 [ 0, %fixups.head ], [ %s.next, %step ]
  %s.more = icmp slt i64 %s, %steps_count
  br i1 %s.more, label %step, label %ready
step:
  %step.at = getelementptr [2 x i64], ptr %steps, i64 %s
  %function = load i64, ptr %step.at, align 8
  %first.at = getelementptr i64, ptr %step.at, i64 1
  %first = load i64, ptr %first.at, align 8
  %params = getelementptr i64, ptr %own.words, i64 %first
  %own.at = getelementptr [2 x i64], ptr %own.steps, i64 %s
  store i64 %function, ptr %own.at, align 8
  %own.params = getelementptr i64, ptr %own.at, i64 1
  store ptr %params, ptr %own.params, align 8
  %s.next = add i64 %s, 1
  br label %steps.head
ready:
  ret ptr %request
}}
"""

_RUN = f"""
define void @lpir_c_destroy(ptr %request) {{
  %none = icmp eq ptr %request, null
  br i1 %none, label %end, label %some
some:
{_own("raw")}  call void @free(ptr %raw)
  br label %end
end:
  ret void
}}

define void @lpir_c_run(ptr %request) {{
{_own("pool")}{_own("steps")}{_own("steps_count")}  call void @submit(ptr %pool, ptr %steps, i64 %steps_count)
  ret void
}}

define void @lpir_c_serve(ptr %request, i64 %thread) {{
{_own("pool")}  call void @worker(ptr %pool, i64 %thread)
  ret void
}}

define void @lpir_c_stop(ptr %request) {{
{_own("pool")}  call void @stop(ptr %pool)
  ret void
}}

define i64 @lpir_c_threads() {{
{_field("threads")}  ret i64 %threads
}}
"""


def _tensors(which: str) -> str:
    """Count, description and memory of the inputs or the outputs."""
    name = which.removesuffix("s")
    return f"""
define i64 @lpir_c_{which}() {{
{_field(which + "_count")}  ret i64 %{which}_count
}}

define ptr @lpir_c_{name}(i64 %index) {{
{_field(which)}{_field(which + "_count")}  %fits = icmp ult i64 %index, %{which}_count
  %at = getelementptr [{TENSOR_WORDS} x i64], ptr %{which}, i64 %index
  %found = select i1 %fits, ptr %at, ptr null
  ret ptr %found
}}

define ptr @lpir_c_{name}_data(ptr %request, i64 %index) {{
  %tensor = call ptr @lpir_c_{name}(i64 %index)
  %none = icmp eq ptr %tensor, null
  br i1 %none, label %never, label %some
some:
{_own("arena")}  %fixed.at = getelementptr i64, ptr %tensor, i64 5
  %fixed = load ptr, ptr %fixed.at, align 8
  %offset.at = getelementptr i64, ptr %tensor, i64 6
  %offset = load i64, ptr %offset.at, align 8
  %moving = getelementptr i8, ptr %arena, i64 %offset
  %arenas = icmp eq ptr %fixed, null
  %found = select i1 %arenas, ptr %moving, ptr %fixed
  ret ptr %found
never:
  ret ptr null
}}
"""


def interface_text(arch: str = "x86_64") -> str:
    """LLVM text that defines `FUNCTIONS`, on top of the executor's; `arch` is that of an ISA."""
    on_arm = arch == "aarch64"
    supported = _SUPPORTED.replace("{READ}", _READ_ARM if on_arm else _READ_X86)
    supported = supported.replace("{DECLARE}", f"declare i64 @{'getauxval(i64' if on_arm else 'syscall(i64, ...'})")
    return f"{QUICK}\n" + supported + _CREATE + _RUN + _tensors("inputs") + _tensors("outputs")
