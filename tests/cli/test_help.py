"""What needs no model imports neither torch nor ESPnet, which take seconds."""

from espnet_prune.cli.verbs import verbs

# Their own options and ESPnet's are one command line.
OF_ESPNET = {
    "asr_inference", "asr_inference_streaming", "asr_train", "drop_in_pack",
    "drop_in_train", "prune_train", "s2t_inference", "ssl_train",
}  # fmt: skip
# Of these every use needs torch, and what they time or write stands in the module.
WHOLE = {"bench", "export_onnx"}
NO_OPTIONS = {"run"}  # it starts another program


def test_help_and_wrong_options_need_no_torch(python):
    light = [name for name in verbs() if name not in OF_ESPNET | WHOLE | NO_OPTIONS]
    assert {"decode", "export", "measure", "report", "ssl_probe"} <= {*light}
    code = f"""
import contextlib, importlib, io, sys
for name in {light}:
    program = importlib.import_module(f"espnet_prune.cli.{{name}}")
    for options, status in ((["--help"], 0), (["--no_such_option"], 2)):
        sys.argv = [name, *options]
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            try:
                ended = program.main()
            except SystemExit as end:
                ended = end.code
        assert ended == status, (name, options, ended, quiet.getvalue())
        heavy = {{"torch", "espnet2", "transformers"}} & {{*sys.modules}}
        assert not heavy, (name, options, heavy)
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
