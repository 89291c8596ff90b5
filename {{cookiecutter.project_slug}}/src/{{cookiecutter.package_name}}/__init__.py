"""{{ cookiecutter.description }}"""

import os

# Nothing here reports to anybody: onnxruntime, Feast and others would, unless told so before they are imported.
os.environ.update(ORT_DISABLE_TELEMETRY="1", FEAST_USAGE="False", DO_NOT_TRACK="true")
