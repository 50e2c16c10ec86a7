#!/usr/bin/env bash
# Bring the Chromium that tests/report/test_browser.py opens the report's page with, where apt is there and may be used:
# as root or by a sudo that asks for no password. Without one that test skips and says so; nothing else depends on it.
set -u

works() {
    # Ubuntu's package of this name may be a stub that asks for snap: it is there and does not run.
    local name
    for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
        [ -n "$name" ] && "$name" --version >/dev/null 2>&1 && return 0
    done
    return 1
}

works && exit 0
as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || as_root=(false)
fi
if ! command -v apt-get >/dev/null || [ "${as_root[*]}" = false ]; then
    echo '==> no Chromium, and none can be installed here (apt-get as root): the test of the report in a browser will skip'
    exit 0
fi
echo '==> installing Chromium by apt for the test of the report in a browser'
install() {
    timeout 300 "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends chromium </dev/null >/dev/null 2>&1
}
# A list of packages that is old names files that are gone.
install || { timeout 120 "${as_root[@]}" apt-get update --quiet=2 </dev/null >/dev/null 2>&1 && install; }
works || echo '==> Chromium could not be installed: the test of the report in a browser will skip'
exit 0
