//! Pods and what makes them.

use integration_tests::{Cluster, poll};

use crate::{has, namespace};

pub fn rollouts(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "rollouts");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    k("create deployment web --image=keelson.dev/web:1 --replicas=2");
    has(
        &k("rollout status deployment/web --timeout=90s"),
        &["successfully rolled out"],
    );
    has(&k("get deployment web"), &["READY", "2/2", "UP-TO-DATE", "AVAILABLE"]);
    has(&k("get pods -o wide"), &["Running", "1/1", "10.244.", "node-1"]);
    has(
        &k("describe deployment web"),
        &[
            "RollingUpdate",
            "2 desired",
            "ScalingReplicaSet",
            "NewReplicaSetAvailable",
        ],
    );
    has(
        &k("describe replicaset"),
        &["Controlled By:", "Deployment/web", "SuccessfulCreate"],
    );
    k("set env deployment/web COLOR=blue");
    has(
        &k("rollout status deployment/web --timeout=90s"),
        &["successfully rolled out"],
    );
    let history = k("rollout history deployment/web");
    has(&history, &["REVISION", "1", "2"]);
    k("rollout undo deployment/web");
    has(
        &k("rollout status deployment/web --timeout=90s"),
        &["successfully rolled out"],
    );
    assert_eq!(
        k("get deployment web -o jsonpath={.spec.template.spec.containers[0].env}"),
        ""
    );
    k("rollout restart deployment/web");
    has(
        &k("rollout status deployment/web --timeout=90s"),
        &["successfully rolled out"],
    );
    k("rollout pause deployment/web");
    k("set image deployment/web web=keelson.dev/web:none");
    k("set image deployment/web web=keelson.dev/web:1");
    k("rollout resume deployment/web");
    k("scale deployment/web --replicas=3");
    k("rollout status deployment/web --timeout=90s");
    assert_eq!(k("get deployment/web -o jsonpath={.status.readyReplicas}"), "3");
    k("scale deployment/web --replicas=1");
    poll("one pod is left", || {
        let pods = k("get pods --no-headers -o name");
        (pods.lines().count() == 1).then_some(()).ok_or(pods)
    });
    k("delete deployment web --cascade=orphan");
    assert_eq!(k("get pods -o name").lines().count(), 1, "orphans stay");
    k("delete replicaset --all");
    poll("dependants are collected", || {
        let pods = k("get pods -o name");
        pods.is_empty().then_some(()).ok_or(pods)
    });
}

const SETS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: db, image: "keelson.dev/web:1"}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: agent, image: "keelson.dev/web:1"}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: sum, image: "keelson.dev/web:1", command: [sh, -c, "echo $((1 + 1))"]}]
"#;

/// StatefulSets, DaemonSets and Jobs, to their ends.
pub fn sets(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "sets");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    kubectl.run_with(&format!("apply -n {n} -f -"), SETS);
    for name in ["statefulset/db", "daemonset/agent"] {
        k(&format!("rollout status {name} --timeout=90s"));
    }
    assert_eq!(
        k("get pods -l app=db -o name --sort-by=.metadata.name"),
        "pod/db-0\npod/db-1\n"
    );
    poll("the name of a member", || {
        let found = kubectl.call(&format!("exec db-1 -n {n} -- nslookup db-0.db.{n}.svc.cluster.local"));
        let ip = k("get pod db-0 -o jsonpath={.status.podIP}");
        if found.out.contains(&ip) {
            Ok(())
        } else {
            Err(found.out + &found.err)
        }
    });
    let uid = || k("get pod db-0 -o jsonpath={.metadata.uid}");
    let first = uid();
    for name in ["statefulset/db", "daemonset/agent"] {
        k(&format!("set env {name} COLOR=blue"));
        k(&format!("rollout status {name} --timeout=90s"));
        has(&k(&format!("rollout history {name}")), &["1", "2"]);
        k(&format!("rollout undo {name}"));
        k(&format!("rollout status {name} --timeout=90s"));
        has(&k(&format!("rollout history {name}")), &["3"]);
    }
    assert_ne!(uid(), first, "a member keeps its name, not its pod");
    k("scale statefulset/db --replicas=1");
    poll("the last member leaves first", || {
        let pods = k("get pods -l app=db -o name");
        (pods == "pod/db-0\n").then_some(()).ok_or(pods)
    });
    k("wait --for=condition=complete job/sum --timeout=90s");
    has(&k("get job sum"), &["3/3"]);
    assert_eq!(k("logs -l job-name=sum"), "2\n2\n2\n");
    for name in ["statefulset/db", "daemonset/agent", "job/sum"] {
        k(&format!("delete {name}"));
    }
    poll("their pods go with them", || {
        let pods = k("get pods -o name");
        pods.is_empty().then_some(()).ok_or(pods)
    });
}

const POD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: green, file.txt: from-configmap}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {word: swordfish}
---
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full}}
spec:
  initContainers:
  - name: prepare
    image: keelson.dev/web:1
    command: [sh, -c, "echo prepared > /shared/state"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: keelson.dev/web:1
    workingDir: /shared
    command: [sh, -c]
    args: ["echo $(WHO) $COLOR $WORD $CPU; sleep 3600"]
    env:
    - {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: hidden, key: word}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
    readinessProbe: {exec: {command: [test, -f, /shared/state]}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo started > /shared/hook"]}}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: all, mountPath: /etc/all, readOnly: true}
  volumes:
  - {name: shared, emptyDir: {}}
  - name: all
    projected:
      sources:
      - configMap: {name: settings, items: [{key: file.txt, path: config}]}
      - secret: {name: hidden}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: fails}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "keelson.dev/web:1", command: [sh, -c, "echo last words > /dev/termination-log; exit 7"]}
---
apiVersion: v1
kind: Pod
metadata: {name: absent}
spec:
  containers:
  - {name: main, image: "keelson.dev/none:1", imagePullPolicy: Never}
---
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec:
  containers:
  - {name: main, image: "keelson.dev/web:1", resources: {requests: {cpu: "1000"}}}
---
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: keelson.dev/web:1
    command: [sleep, "3600"]
    livenessProbe: {exec: {command: [test, -f, /none]}, periodSeconds: 1, failureThreshold: 1}
"#;

pub fn pods(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "pods");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    kubectl.run_with(&format!("apply -n {n} -f -"), POD);
    k("wait --for=condition=Ready pod/full --timeout=90s");
    let log = poll("the log of the pod", || {
        let log = k("logs full -c main");
        (!log.is_empty()).then_some(log).ok_or_else(|| "empty".to_owned())
    });
    assert_eq!(log, "full green swordfish 100\n");
    let read = |path: &str| kubectl.run(&format!("exec full -n {n} -c main -- cat {path}"));
    assert_eq!(read("state"), "prepared\n");
    assert_eq!(read("hook"), "started\n");
    assert_eq!(read("/etc/all/config"), "from-configmap");
    assert_eq!(read("/etc/all/word"), "swordfish");
    assert_eq!(read("/etc/all/labels"), "app=\"full\"");
    has(&read("/etc/hosts"), &["Kubernetes-managed hosts file", "full"]);
    has(
        &read("/etc/resolv.conf"),
        &["nameserver 10.96.0.10", "pods.svc.cluster.local", "ndots:5"],
    );
    has(
        &read("/var/run/secrets/kubernetes.io/serviceaccount/namespace"),
        &["pods"],
    );
    assert_eq!(k("get pod full -o jsonpath={.status.qosClass}"), "Burstable");
    has(
        &k("describe pod full"),
        &[
            "Init Containers:",
            "Exit Code:",
            "PodReadyToStartContainers",
            "Scheduled",
            "Pulled",
            "Started",
        ],
    );

    k("wait --for=jsonpath={.status.phase}=Failed pod/fails --timeout=60s");
    let ended = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}{.status.containerStatuses[0].state.terminated.message}";
    assert_eq!(k(&format!("get pod fails -o {ended}")), "7last words\n");
    let reason = |pod: &str| {
        k(&format!(
            "get pod {pod} -o jsonpath={{.status.containerStatuses[0].state.waiting.reason}}"
        ))
    };
    poll("an image that may not be pulled", || {
        let reason = reason("absent");
        (reason == "ErrImageNeverPull").then_some(()).ok_or(reason)
    });
    let why = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    poll("a pod that fits nowhere says why", || {
        let message = k(&format!("get pod huge -o {why}"));
        message
            .contains("0/1 nodes are available: 1 Insufficient cpu")
            .then_some(())
            .ok_or(message)
    });
    poll("a sick container is restarted", || {
        let restarts = k("get pod sick -o jsonpath={.status.containerStatuses[0].restartCount}");
        restarts
            .parse::<u32>()
            .is_ok_and(|count| count > 0)
            .then_some(())
            .ok_or(restarts)
    });

    kubectl.run(&format!(
        "patch configmap settings -n {n} -p '{{\"data\":{{\"file.txt\":\"changed\"}}}}'"
    ));
    poll("a mounted ConfigMap follows its object", || {
        let config = read("/etc/all/config");
        (config == "changed").then_some(()).ok_or(config)
    });
    k("delete pod full --grace-period=1");
    k("delete pod sick --force --grace-period=0");
    has(&kubectl.fail(&format!("get pod full -n {n}")), &["NotFound"]);
    has(
        &kubectl.run(&format!(
            "run once -n {n} --image=keelson.dev/web:1 --restart=Never --attach --rm --quiet --command -- sh -c 'sleep 2; echo hello'"
        )),
        &["hello"],
    );
}

pub fn services(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "services");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    k("create deployment web --image=keelson.dev/web:1 --replicas=2 --port=8080");
    k("expose deployment web --port=80 --target-port=8080 --type=NodePort");
    k("rollout status deployment/web --timeout=90s");
    let field = |path: &str| k(&format!("get service web -o jsonpath={path}"));
    let (ip, port) = (field("{.spec.clusterIP}"), field("{.spec.ports[0].nodePort}"));
    assert!(ip.starts_with("10.96."), "{ip}");
    has(&k("describe service web"), &["NodePort", "Endpoints:", ":8080"]);
    poll("the endpoints", || {
        let ready = k("get endpointslices -o jsonpath={.items[*].endpoints[*].conditions.ready}");
        (ready == "true true").then_some(()).ok_or(ready)
    });
    let node = kubectl.run("get node node-1 -o jsonpath={.status.addresses[0].address}");
    // Not wget: with -T, or outside of a container, that of Debian's static busybox ends in a segmentation fault.
    let fetch = |host: &str, port: &str| {
        let script = format!("exec 3<>/dev/tcp/{host}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3");
        cluster.on_node("node-1", &["timeout", "3", "bash", "-c", &script])
    };
    for (host, port) in [(ip.as_str(), "80"), (node.as_str(), port.as_str())] {
        poll("a page through the service", || {
            let page = fetch(host, port);
            page.filter(|page| page.contains("Hello"))
                .map(drop)
                .ok_or_else(|| format!("no answer of {host}:{port}"))
        });
    }
    kubectl.run(&format!(
        "run client -n {n} --image=keelson.dev/web:1 --restart=Never --command -- sleep 3600"
    ));
    k("wait --for=condition=Ready pod/client --timeout=60s");
    let within = |command: &str| kubectl.call(&format!("exec client -n {n} -- {command}"));
    for name in ["web", "web.services", "web.services.svc.cluster.local"] {
        poll(name, || {
            let answer = within(&format!("timeout 5 wget -q -O - http://{name}/"));
            if answer.code == 0 { Ok(()) } else { Err(answer.err) }
        });
    }
    has(
        &within("nslookup kubernetes.default.svc.cluster.local").out,
        &["10.96.0.1"],
    );
    k("create service clusterip lonely --tcp=80:80");
    let lonely = k("get service lonely -o jsonpath={.spec.clusterIP}");
    poll("a service without endpoints refuses at once", || {
        let answer = within(&format!("timeout 20 wget -q -O - http://{lonely}/"));
        answer.err.contains("refused").then_some(()).ok_or(answer.err)
    });
}

pub fn drain(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "drain");
    let k = |line: &str| kubectl.run(&format!("{line} -n {n}"));
    k("create deployment web --image=keelson.dev/web:1");
    k("rollout status deployment/web --timeout=90s");
    k("create poddisruptionbudget web --selector=app=web --min-available=1");
    poll("the budget is counted", || {
        let healthy = k("get poddisruptionbudget web -o jsonpath={.status.currentHealthy}");
        (healthy == "1").then_some(()).ok_or(healthy)
    });
    let drain = "drain node-1 --force --ignore-daemonsets --delete-emptydir-data --grace-period=1";
    let refused = kubectl.fail(&format!("{drain} --timeout=4s"));
    has(
        &refused,
        &["Cannot evict pod as it would violate the pod's disruption budget"],
    );
    k("delete poddisruptionbudget web");
    has(
        &kubectl.run(&format!("{drain} --timeout=90s")),
        &["node/node-1 drained"],
    );
    poll("the new pod waits for a node", || {
        let phase = k("get pods -o jsonpath={.items[*].status.phase}");
        (phase == "Pending").then_some(()).ok_or(phase)
    });
    kubectl.run("uncordon node-1");
    has(
        &k("rollout status deployment/web --timeout=90s"),
        &["successfully rolled out"],
    );
}
