#!/bin/sh
# install-extra EXTRAS: makes /opt/citemesh, an environment with citemesh[EXTRAS] from /wheels
# and nothing that could install more. Part of the image build (k8s/Containerfile).
#
# Modules are compiled here, because nothing is written at run time, and are never compared
# with their sources, whose dates a copy of a layer may change. sbom.cdx.json lists what was
# installed, as CycloneDX.
set -eu

python3 -m venv --without-pip /opt/citemesh
/opt/tools/bin/pip --python /opt/citemesh/bin/python3 install --quiet --no-compile --no-index \
    --find-links /wheels "citemesh[$1]"
/opt/citemesh/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/citemesh/lib
/opt/tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
    --output-file /opt/citemesh/sbom.cdx.json /opt/citemesh/bin/python3
