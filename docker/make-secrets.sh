#!/bin/sh
# Makes what the composed services share and nobody else may know: one file a secret, in docker/secrets or the folder named. A file
# that is there stays, so a value of your own can be put first, and a second run changes nothing.
#
# A file of the name of a setting (CONSENT_GATEWAY__...) is that setting. The folder keeps other users of this machine out; the files
# themselves can be read by any user in the container they are mounted into, since compose cannot change their owner.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/secrets}
# shellcheck disable=SC1091 # the operator makes it
[ ! -f "$here/.env" ] || . "$here/.env"
net=${CONSENT_NET:-172.30.60}
carrier=${CONSENT_CARRIER:-$net.40}

umask 077
mkdir -p "$folder"
cd "$folder"

keep() { # NAME: standard input becomes the secret NAME, unless there is one
    if [ -e "$1" ]; then
        cat >/dev/null
    else
        cat >"$1.new"
        chmod 0444 "$1.new"
        mv "$1.new" "$1"
    fi
}
random_hex() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
signing() { printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64 | tr -d '\n')"; }

for name in postgres-password gateway-db-password asterisk-calls-gateway gateway-calls-asterisk extension-7000 extension-7100 \
    CONSENT_GATEWAY__SMS__CODE_SECRET CONSENT_GATEWAY__LEDGER__SECRET; do
    random_hex | keep "$name"
done
signing | keep CONSENT_GATEWAY__SMS__INBOUND_SECRET

keep CONSENT_GATEWAY__DATABASE__DSN <<END
postgresql://consent_gateway:$(cat gateway-db-password)@$net.30:5432/consent
END
# The billing systems. The first is the demo's; put yours beside it or in its place: the key is what it sends, the address what is told.
keep CONSENT_GATEWAY__TENANTS <<END
[
  {
    "id": "billing",
    "api_key": "$(random_hex)",
    "webhook_url": "http://$net.40:8090/billing",
    "webhook_secret": "$(signing)"
  }
]
END
keep CONSENT_GATEWAY__LINES <<END
[
  {
    "name": "asterisk",
    "host": "$net.20",
    "from_user": "15880000",
    "username": "consent",
    "password": "$(cat gateway-calls-asterisk)"
  }
]
END
keep CONSENT_GATEWAY__SOFTPHONES <<END
[
  {
    "number": "+8215880000",
    "password": "$(cat asterisk-calls-gateway)"
  }
]
END
keep site_pjsip.conf <<END
; Made by docker/make-secrets.sh; dialplans/asterisk/site_pjsip.conf explains each part.
[site-udp](!)
bind = $net.20:5060

[site-tcp](!)
bind = $net.20:5060

[site-tls](!)
bind = $net.20:5061

[site-consent](!)
allow = g722,alaw,ulaw

[site-consent-aor](!)
contact = sip:$net.10:5060

[site-consent-identify](!)
match = $net.10

[site-consent-calls-us](!)
username = consent
password = $(cat gateway-calls-asterisk)

[site-we-call-consent](!)
username = +8215880000
password = $(cat asterisk-calls-gateway)

[site-7000-auth](!)
username = 7000
password = $(cat extension-7000)

[site-7100-auth](!)
username = 7100
password = $(cat extension-7100)

[site-carrier](!)
allow = alaw,ulaw

[site-carrier-aor](!)
contact = sip:$carrier:5060

[site-carrier-identify](!)
match = $carrier
END
echo "$folder: $(find . -type f | wc -l) secrets"
