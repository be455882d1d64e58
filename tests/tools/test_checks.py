#!/usr/bin/env python3
"""Each check of tools/check passes on a good tree and fails, at the right line, on a tree with one thing wrong."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]

HEADER = "#ifndef PROA_BASE_A_H\n#define PROA_BASE_A_H\n\nint proa_a(void);\n\n#endif\n"
GOOD = {
    "src/base/a.h": HEADER,
    "src/base/a.c": '#include "base/a.h"\n\n#include <stdio.h>\n#include <jansson.h>\n\nint proa_a(void)\n{\n'
                    "    return 1;\n}\n",
    "src/op/b.c": '#include "base/a.h"\n',
    "src/text/t.h": "",
    "src/base/names.c": 'static const char *const names[] = {"a"};\nconst char *proa_name(int i);\n\n'
                        "const char *proa_name(int i)\n{\n    return names[i];\n}\n",
    "src/op/a.cu": "void a()\n{\n    k<<<1, 2>>>();\n    proa_cuda_follow(s, f<1>, 1, 2, 0);\n}\n\nPROA_CUDA_KERNELS(a, k)\n",
    "src/op/f.cuh": "__global__ void __launch_bounds__(1) f(int a)\n{\n    follow_wait();\n}\n",
    "src/op/cuda/kernels.cu": "kernel_of_file *const files[] = {\n    proa_cuda_kernels_a,\n};\n",
    "src/op/cuda/meson.build": "cuda_digest = custom_target('cuda_digest',\n  input: files('map.cu', '../m.cuh', '../n.cuh'))\n",
    "src/op/cuda/map.cu": '#include "op/m.cuh"\n',
    "src/op/m.cuh": '#include "op/n.cuh"\n',
    "src/op/n.cuh": "",
    "docs/flags.md": "flags\n",
    "build/proa": "#!/bin/sh\necho flags\n",
}


def function(lines):
    return "int proa_f(void)\n{\n" + "    proa_a();\n" * (lines - 3) + "}\n"


# check, path, content in a good tree, what the check must print
BAD = [
    ("format", "src/base/b.c", "int  x;\n", "src/base/b.c:1:4: error"),
    ("format", "docs/x.md", "a\nb \n", "docs/x.md:2: trailing white space"),
    ("format", "docs/x.md", "a", "docs/x.md:1: no newline"),
    ("format", "tools/x.sh", "\ttrue\n", "tools/x.sh:1: a tab"),
    ("layers", "src/base/b.c", '#include "text/t.h"\n', "src/base/b.c:1: base includes text/t.h"),
    ("layers", "src/op/c.c", '\n#include "text/t.h"\n', "src/op/c.c:2: op includes text/t.h"),
    ("layers", "src/base/b.c", '#include "a.h"\n', 'src/base/b.c:1: "a.h" is not a file of src/'),
    ("layers", "src/cmd/b.c", "#include <jansson.h>\n", "src/cmd/b.c:1: <jansson.h> is wrapped by src/base/a.c"),
    ("layers", "src/attic/b.c", "", "src/attic/b.c:1: src/attic is no room"),
    ("layers", "tests/unit/t.c", '#include "base/a.c"\n', "tests/unit/t.c:1: includes the source file"),
    ("length", "src/base/b.c", function(71), "src/base/b.c:1: proa_f has 71 lines, over 70"),
    ("length", "src/base/b.c", function(150), "src/base/b.c:1: proa_f has 150 lines; none has 150"),
    ("length", "src/base/b.c", "\n" * 1201, "src/base/b.c:1201: 1201 lines, at most 1200"),
    ("length", "tools/check/long_functions.txt", "src/base/a.c proa_a: a reason\n", "proa_a is not over 70 lines"),
    ("length", "tools/check/long_functions.txt", "src/base/a.c proa_a\n", "has no reason"),
    ("length", "src/base/b.inc", function(71), "src/base/b.inc:1: proa_f has 71 lines"),
    ("headers", "src/base/b.h", "size_t x(void);\n", "src/base/b.h:1:1: error"),
    ("headers", "src/base/b.h", "struct a {\n    int b;\n};\n", "src/base/b.h:1:8: error: redefinition"),
    ("symbols", "src/base/b.c", "int stray(void)\n{\n    return 1;\n}\n", "build/proa.p/b.o:1: stray is public"),
    ("symbols", "src/base/b.c", "static int kept;\nint *proa_b(void)\n{\n    return &kept;\n}\n", "kept is a mutable static"),
    ("symbols", "src/base/b.c", "static __thread int kept = 1;\nint *proa_b(void)\n{\n    return &kept;\n}\n", "kept is a mut"),
    ("symbols", "src/base/b.c", "int proa_a(void)\n{\n    return 2;\n}\n", "b.o:1: proa_a is public in build/proa.p/a.o too"),
    ("environment", "src/base/b.c", '\nchar *p = getenv("HOME");\n', "src/base/b.c:2: getenv outside"),
    ("kernels", "src/op/b.cu", "void b()\n{\n    k<<<1, 2>>>();\n}\n", "src/op/b.cu:1: it has kernels"),
    ("kernels", "src/op/b.cu", "void b()\n{\n    proa_cuda_follow(s, k, 1, 2, 0);\n}\n", "src/op/b.cu:1: it has kernels"),
    ("kernels", "src/op/f.cuh", "__global__ void f(int a)\n{\n    a++;\n}\n\nvoid g()\n{\n    follow();\n}\n",
     "src/op/a.cu:4: f starts beside the kernel before it"),
    ("kernels", "src/op/n.cuh", '#include "op/b.c"\n', "src/op/cuda/meson.build:1: cuda_digest has no src/op/b.c"),
    ("kernels", "src/op/m.cuh", "", "src/op/cuda/meson.build:1: cuda_digest has src/op/n.cuh, which no product includes"),
    ("kernels", "src/op/b.cu", "PROA_CUDA_KERNELS(b, k)\n", "src/op/b.cu:1: b is not listed"),
    ("kernels", "src/op/a.cu", "void a();\n", "src/op/cuda/kernels.cu:1: a is of no file"),
    ("docs", "docs/flags.md", "flags\nmore\n", "docs/flags.md:2: not what build/proa says"),
    ("docs", "docs/flags.md", "", "docs/flags.md:1: not what build/proa says"),
]


class Checks(unittest.TestCase):
    def run_check(self, name, changes):
        with tempfile.TemporaryDirectory() as folder:
            top = pathlib.Path(folder).resolve()
            for path, text in {**GOOD, **changes}.items():
                (top / path).parent.mkdir(parents=True, exist_ok=True)
                (top / path).write_text(text)
            (top / "build/proa").chmod(0o755)
            shutil.copy(TOP / ".clang-format", top)
            if name == "symbols":
                (top / "build/proa.p").mkdir()
                for source in top.glob("src/base/*.c"):
                    subprocess.run(["gcc", "-g", "-c", "-I", top / "src", source, "-o",
                                    top / f"build/proa.p/{source.stem}.o"], check=True)
            return subprocess.run([sys.executable, "-B", TOP / f"tools/check/check_{name}.py", top],
                                  capture_output=True, text=True)

    def test_good_tree_passes(self):
        for name in sorted({bad[0] for bad in BAD}):
            with self.subTest(name):
                run = self.run_check(name, {})
                self.assertEqual((run.returncode, run.stdout, run.stderr), (0, "", ""))

    def test_bad_trees_fail(self):
        for name, path, text, message in BAD:
            with self.subTest(f"{name}: {message}"):
                run = self.run_check(name, {path: text})
                self.assertEqual(run.returncode, 1, run.stderr)
                self.assertIn(message, run.stdout)

    def test_reason_allows_length(self):
        changes = {"src/base/b.c": function(149), "tools/check/long_functions.txt": "src/base/b.c proa_f: a table\n"}
        self.assertEqual(self.run_check("length", changes).stdout, "")

    def test_every_check_is_here(self):
        scripts = {p.stem.removeprefix("check_") for p in (TOP / "tools/check").glob("check_*.py")}
        self.assertEqual(scripts, {bad[0] for bad in BAD})


if __name__ == "__main__":
    unittest.main()
