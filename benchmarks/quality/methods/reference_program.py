"""The reference program aopp_deconv_tool, its own chain: the best of its three deconvolutions.

Its environment has Python 3.12 and ``aopp_deconv_tool==0.1.28 numpy==1.26.4``; name its interpreter in
REFERENCE_PY. The rebinning is left out, because the channels of the scenes are as broad as its bins. The CPU
seconds are those of the deconvolution.
"""

import os
import shutil

import numpy as np

CHOICES = (("--threshold", "0.3"), ("--threshold", "-1"), ("--deconv_method", "lucy_richardson"))
SETTINGS = [{"options": o} for o in CHOICES]


def deconvolve_scene(scene, prepared, work, options=()):
    from benchmarks.quality.method import NotInstalled

    python = os.environ.get("REFERENCE_PY")
    if not python:
        raise NotInstalled("set REFERENCE_PY to the interpreter of its environment, see benchmarks/README.md")
    from benchmarks.reference_program import Reference, planes_of

    program = Reference(python, work)
    if not (work / "star_rebin.fits").exists():
        for name, file in (("target", "obs_rebin"), ("star", "star_rebin")):
            shutil.copy(scene / f"{name}.fits", work / f"{file}.fits")
        for module, arguments in list(program.chain())[2:-1]:
            program.run(module, *arguments)
    program.run("deconvolve", *program.deconvolve("sharp"), *options)
    return {"RESULT": np.stack(planes_of(work / "sharp.fits"))}
