# The image of the init container: Debian's Python, iptables and nft, the locked dependencies, and capture. No shell,
# no package manager, no compiler. docs/image.md says how it is built and run, and what each part is for.

ARG BASE=docker.io/library/debian:trixie-slim


# --- what Debian gives ------------------------------------------------------------------------------------

FROM ${BASE} AS debian

# Asked with an empty list of installed packages, apt fetches everything that python3, iptables and nft need, libc included,
# and nothing that Debian calls essential but we never run.
RUN set -eu; \
    mkdir -p /packages/partial; \
    : > /tmp/nothing-installed; \
    apt-get update; \
    apt-get install --yes --download-only --no-install-recommends \
        -o Dir::State::status=/tmp/nothing-installed -o Dir::Cache::archives=/packages \
        base-files base-passwd netbase python3 iptables nftables

# Unpacked but not configured: the packages' scripts would need a shell, and what they set up (alternatives, caches)
# is of no use here. Left out is what only those scripts need, and the libraries of Python modules that we do without.
# --keep-directory-symlink: older packages hold /lib and /sbin, which are links into /usr here as everywhere.
# status.d: where scanners look for the packages of an image that has no dpkg.
RUN set -eu; \
    mkdir -p /image/var/lib/dpkg/status.d; \
    for name in bin sbin lib lib64; do mkdir -p "/image/usr/$name"; ln -s "usr/$name" "/image/$name"; done; \
    for package in /packages/*.deb; do \
        name=$(dpkg-deb --field "$package" Package); \
        case $name in \
            dpkg | tar | mawk | debconf | libacl1 | libpcre2-* | libselinux1) continue ;; \
            media-types | openssl-provider-legacy | readline-common | tzdata) continue ;; \
            libdb5* | libncurses* | libreadline*) continue ;; \
            libcom-err2 | libgssapi* | libk5crypto3 | libkeyutils1 | libkrb5* | libnsl2 | libtirpc*) continue ;; \
        esac; \
        dpkg-deb --fsys-tarfile "$package" | tar -x -C /image --keep-directory-symlink; \
        dpkg-deb --field "$package" > "/image/var/lib/dpkg/status.d/$name"; \
    done

# Users and groups, which base-passwd's script would have copied. The owner of the proxy has the name that
# istio-iptables looks for.
RUN set -eu; cd /image; \
    cp usr/share/base-passwd/passwd.master etc/passwd; \
    cp usr/share/base-passwd/group.master etc/group; \
    echo 'istio-proxy:x:1337:1337::/nonexistent:/usr/sbin/nologin' >> etc/passwd; \
    echo 'istio-proxy:x:1337:' >> etc/group

# What nobody reads or loads in an init container. Licences stay.
RUN set -eu; cd /image/usr; \
    find share/doc ! -type d ! -name copyright -delete; \
    find share/doc -type d -empty -delete; \
    rm -rf share/bash-completion share/bug share/info share/lintian share/locale share/man \
        lib/*/audit lib/*/engines-3 lib/*/gconv lib/*/ossl-modules \
        lib/python3*/_pyrepl lib/python3*/lib2to3 lib/python3*/pydoc_data lib/python3*/test lib/python3*/lib-dynload/*test*.so

# A Python module in C whose library was left out cannot be loaded: it goes as well.
RUN set -eu; \
    for module in /image/usr/lib/python3*/lib-dynload/*.so; do \
        name=${module##*/}; \
        chroot /image /usr/bin/python3 -IS -c "import ${name%%.*}" 2>/dev/null || rm "$module"; \
    done

# The byte code takes the place of the sources, which halves the size; nobody edits the standard library here.
RUN set -eu; cd /image/usr/lib; \
    for library in python3.*; do \
        chroot /image /usr/bin/python3 -IS -m compileall -q -b --invalidation-mode unchecked-hash "/usr/lib/$library"; \
        find "$library" -name '*.py' -delete; \
        find "$library" -name __pycache__ -prune -exec rm -r {} +; \
    done; \
    ldconfig -r /image


# --- the locked dependencies, and capture -----------------------------------------------------------------

FROM ${BASE} AS python

RUN set -eu; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-pip

# Where pip gets packages from; they are compared with the hashes in the locks, wherever that is.
ARG PIP_INDEX_URL=https://pypi.org/simple
WORKDIR /source
# Both locks, and requirements-ca.crt, the certificates to trust where a proxy opens TLS, if there is such a file.
COPY requirements* ./

# The image gets the locked dependencies. Hatchling, which builds our wheel, is locked among the tools of development:
# they are installed all together, for picking it out would take a list of what it needs, and none is in the image.
# But for python-iptables: a witness of tests, which comes as source only and would take a compiler.
RUN set -eu; \
    ! [ -s requirements-ca.crt ] || export PIP_CERT=/source/requirements-ca.crt; \
    install() { pip install --root-user-action ignore --no-cache-dir --no-compile --require-hashes --only-binary :all: "$@"; }; \
    install --target /dependencies --requirement requirements.lock; \
    sed '/^python-iptables==/,/[^\\]$/d' requirements-dev.lock > /tmp/build-tools.lock; \
    install --target /build-tools --requirement /tmp/build-tools.lock

# The root file system is read-only when it matters, so byte code is made here, by the same Python of the same Debian.
# unchecked-hash: it is used without a look at the sources or their times, which some builders rewrite.
RUN set -eu; cd /dependencies; \
    rm -r bin; \
    python3 -m compileall -q -b --invalidation-mode unchecked-hash -s . -p /usr/lib/python3/dist-packages .; \
    find . -name '*.py' -delete

# Our own sources stay: a traceback should show its lines. The entry does without the pattern matching of pip's, and
# -I and -S without environment, user and site: all that Python looks at is the standard library and the folder named.
COPY . .
RUN set -eu; \
    packages=/usr/lib/python3/dist-packages; \
    PYTHONPATH=/build-tools pip install --root-user-action ignore --no-compile --no-index --no-deps --no-build-isolation \
        --target "/ours$packages" .; \
    rm -r "/ours$packages/bin" "/ours$packages/share"; \
    python3 -m compileall -q --invalidation-mode unchecked-hash -s /ours "/ours$packages"; \
    python3 -IS -c "import sys; sys.path[:0] = ['/ours$packages']; import capture.bundling; capture.bundling.make(is_checked=False)"; \
    mkdir -p /ours/usr/local/bin; \
    printf '%s\n' '#!/usr/bin/python3 -IS' 'import sys' "sys.path.append('$packages')" \
        'from capture.__main__ import main' 'main()' > /ours/usr/local/bin/capture; \
    sed s/capture.__main__/capture.cni.program/ /ours/usr/local/bin/capture > /ours/usr/local/bin/capture-cni; \
    chmod 755 /ours/usr/local/bin/capture /ours/usr/local/bin/capture-cni; \
    ln -s capture /ours/usr/local/bin/istio-iptables


# --- the image ----------------------------------------------------------------------------------------------

FROM scratch

# What changes least comes first, so that a node that has an older version fetches only the last layer.
COPY --from=debian /image /
COPY --from=python /dependencies /usr/lib/python3/dist-packages
COPY --from=python /ours /

LABEL org.opencontainers.image.title="traffic-capture" \
      org.opencontainers.image.description="Bends a pod's TCP to its proxy: the init tool of a service mesh, with the flags of istio-iptables." \
      org.opencontainers.image.licenses="Apache-2.0"

# Some runtimes give an image without a PATH none at all.
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin

# Arguments only, with or without a leading `istio-iptables`, or a command of that name: all three are called so.
# There is no CMD: without arguments everything is captured, as on any host.
ENTRYPOINT ["capture"]
