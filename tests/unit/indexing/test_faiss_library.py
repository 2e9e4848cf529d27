"""The import of FAISS, in processes of their own: it happens once."""

import subprocess
import sys

IMPORT = "from retort.errors import RetortError\ntry:\n    import retort.indexing.faiss_library\nexcept RetortError as error:\n    print(error)\n"


def pretend(folder, name, version="1.0"):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def output(code, folder=None):
    setup = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_distribution_is_fine():
    assert output(IMPORT) == ""


def test_cpu_and_any_gpu_variant_together_are_refused_in_one_line(tmp_path):
    pretend(tmp_path, "faiss-gpu-cu12")
    pretend(tmp_path, "faiss-cpu")
    said = output(IMPORT, tmp_path)
    assert said.startswith("faiss-cpu and faiss-gpu-cu12 are both installed")
    assert "pip uninstall faiss-cpu faiss-gpu-cu12" in said
    assert "\n" not in said


def test_the_same_distribution_on_two_paths_is_one(tmp_path):
    pretend(tmp_path, "faiss-cpu")
    assert output(IMPORT, tmp_path) == ""


def test_no_faiss_is_told_with_what_to_install():
    hidden = (
        "import sys\nsys.modules['faiss'] = None\nimport importlib.metadata, pathlib\n"
        "real = pathlib.Path.glob\npathlib.Path.glob = lambda self, pattern, **k: iter(()) if pattern.startswith('faiss') else real(self, pattern, **k)\n"
    )
    said = output(hidden + IMPORT)
    assert said.startswith("FAISS is not installed")
    assert 'pip install "retort[cpu]"' in said
    assert "\n" not in said
