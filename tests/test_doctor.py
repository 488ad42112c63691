"""loci doctor: what it says of the machine."""

import json
import subprocess

from command_line import loci


def test_doctor_knows_the_machine(tmp_path):
    facts = json.loads(loci(tmp_path, "doctor", "--json").stdout)
    assert facts["torch"].startswith("2.") and facts["threads"] >= 1
    assert len(facts["openmp"]) == 1
    assert "level" in loci(tmp_path, "doctor").stdout


def test_doctor_counts_openmp_runtimes(tmp_path):
    (tmp_path / "empty.c").write_text("int loci_test_symbol;\n")
    library = tmp_path / "libiomp5.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "empty.c"], check=True)
    result = loci(tmp_path, "doctor", "--json", variables={"LD_PRELOAD": str(library)})
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert len(facts["openmp"]) == 2 and str(library) in facts["openmp"]
    assert any("several OpenMP runtimes" in line for line in facts["wrong"])
