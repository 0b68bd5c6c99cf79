#!/bin/bash
# Puts the sample on a local cluster and fetches its page through the Service's cluster IP (from a node), through its node port (from this
# machine) and through its name (from inside a pod). `make up` runs it.
# usage: web.sh KEELSON CLUSTER-FOLDER
set -euo pipefail
keelson=$1
dir=$2
samples=$(dirname "$0")
export KUBECONFIG=$dir/pki/admin.kubeconfig

# Prints the page at address $1, port $2, with nothing but bash: a fresh machine may have no curl.
page() {
    exec 3<>"/dev/tcp/$1/$2" || return
    printf 'GET / HTTP/1.0\r\nHost: web\r\n\r\n' >&3
    sed '1,/^\r$/d' <&3
}

# Runs the command after its title until it prints something, for 15 seconds at most, and prints that.
fetch() {
    local title=$1 answer deadline=$((SECONDS + 15))
    shift
    while [ $SECONDS -lt $deadline ]; do
        if answer=$("$@" 2>"$dir/fetch.err") && [ -n "$answer" ]; then
            printf '%-46s %s\n' "$title" "$answer"
            return
        fi
        sleep 0.1
    done
    echo "$title: no answer: $(cat "$dir/fetch.err")" >&2
    return 1
}

field() {
    kubectl get "$1" -o "jsonpath=$2"
}

"$keelson" image build-web --output "$dir/images/web.tar"
"$keelson" local import --dir "$dir" "$dir/images/web.tar"
kubectl apply -f "$samples/web.yaml"
kubectl rollout status deployment/web --timeout=120s

ip=$(field service/web '{.spec.clusterIP}')
port=$(field service/web '{.spec.ports[0].nodePort}')
node=$(field nodes '{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
fetch "cluster IP   http://$ip/" \
    "$keelson" local exec --dir "$dir" node-1 -- bash -c "$(declare -f page); page $ip 80"
fetch "node port    http://$node:$port/" page "$node" "$port"
# Not wget's own -T: in Debian's static busybox it ends in a segmentation fault.
fetch "from a pod   http://web.default.svc.cluster.local/" \
    kubectl exec deployment/web -- timeout 5 wget -q -O - http://web.default.svc.cluster.local/
