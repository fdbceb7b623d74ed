#!/bin/sh
# install-extra EXTRAS: brings citemesh[EXTRAS] into /opt/citemesh, from wheels that were fetched
# before and with nothing that could install more. Part of the image build (k8s/Containerfile),
# which mounts the stage with wheels and tools at /installer.
#
# pip compiles what it installs, because nothing is written at run time. sbom.cdx.json lists, as
# CycloneDX, what is installed then.
set -eu

tools=/installer/opt/tools/bin/python3
environment=/opt/citemesh/bin/python3

[ -x "$environment" ] || python3 -m venv --without-pip /opt/citemesh
"$tools" -m pip --python "$environment" install --quiet --no-index \
    --find-links /installer/wheels "citemesh[$1]"
"$tools" -m cyclonedx_py environment --output-reproducible --output-format JSON \
    --output-file /opt/citemesh/sbom.cdx.json "$environment"
