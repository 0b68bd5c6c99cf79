"""The official Python client: typed and dynamic calls, watches, streams into a pod."""

import json
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import ConflictError
from kubernetes.stream import portforward, stream

NAMESPACE = "python"


def until(what, ask):
    for _ in range(900):
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(what)


def refused(code, reason, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert (error.status, json.loads(error.body)["reason"]) == (code, reason), error
    else:
        raise AssertionError(f"expected {code} {reason}")


def pod(name):
    container = client.V1Container(name="c", image="keelson.dev/web:1")
    spec = client.V1PodSpec(termination_grace_period_seconds=0, containers=[container])
    return client.V1Pod(metadata=client.V1ObjectMeta(name=name, labels={"app": name}), spec=spec)


def pods(core):
    seen = []

    def follow():
        follower = watch.Watch()
        for event in follower.stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=90):
            seen.append((event["type"], event["object"].status.phase))
            if event["type"] == "DELETED":
                follower.stop()

    follower = threading.Thread(target=follow)
    follower.start()
    core.create_namespaced_pod(NAMESPACE, pod("p"))
    refused(409, "AlreadyExists", core.create_namespaced_pod, NAMESPACE, pod("p"))
    refused(422, "Invalid", core.create_namespaced_pod, NAMESPACE, pod("No"))
    refused(404, "NotFound", core.read_namespaced_pod, "none", NAMESPACE)
    until("a running pod", lambda: core.read_namespaced_pod("p", NAMESPACE).status.phase == "Running")
    streams(core)
    core.patch_namespaced_pod("p", NAMESPACE, {"metadata": {"labels": {"x": "y"}}})
    core.delete_namespaced_pod("p", NAMESPACE)
    follower.join()
    assert seen[0] == ("ADDED", "Pending") and seen[-1][0] == "DELETED", seen
    assert ("MODIFIED", "Running") in seen, seen


def streams(core):
    run = dict(stderr=True, stdout=True, _preload_content=False)
    command = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    ran = stream(core.connect_get_namespaced_pod_exec, "p", NAMESPACE, command=command, stdin=False, tty=False, **run)
    ran.run_forever(timeout=30)
    assert (ran.read_stdout(), ran.read_stderr(), ran.returncode) == ("out\n", "err\n", 3)
    for tty in [False, True]:
        typed = stream(core.connect_get_namespaced_pod_exec, "p", NAMESPACE, command=["cat"], stdin=True, tty=tty, **run)
        typed.write_stdin("hello\n")
        assert typed.readline_stdout(timeout=30).strip() == "hello"
        typed.close()
    forward = portforward(core.connect_get_namespaced_pod_portforward, "p", NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert socket.recv(4096).startswith(b"HTTP/1.1 200 OK")


def deployments(core, apps):
    template = {"metadata": {"labels": {"app": "d"}}, "spec": pod("d").spec}
    spec = client.V1DeploymentSpec(replicas=1, selector={"matchLabels": {"app": "d"}}, template=template)
    apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=spec))
    apps.patch_namespaced_deployment_scale("d", NAMESPACE, {"spec": {"replicas": 2}})
    until(
        "two pods",
        lambda: apps.read_namespaced_deployment_status("d", NAMESPACE).status.ready_replicas == 2,
    )
    page = core.list_namespaced_pod(NAMESPACE, limit=1)
    assert len(page.items) == 1 and page.metadata.remaining_item_count == 1
    rest = core.list_namespaced_pod(NAMESPACE, limit=1, _continue=page.metadata._continue)
    assert rest.items[0].metadata.name != page.items[0].metadata.name and not rest.metadata._continue


def dynamic_client():
    maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
    maps.create(namespace=NAMESPACE, body={"metadata": {"name": "c"}, "data": {"a": "1"}})
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"b": "2"}}
    applied = maps.server_side_apply(namespace=NAMESPACE, name="c", body=body, field_manager="python")
    assert {entry.operation for entry in applied.metadata.managedFields} == {"Apply", "Update"}
    body["data"] = {"a": "2"}
    try:
        maps.server_side_apply(namespace=NAMESPACE, name="c", body=body, field_manager="other")
    except ConflictError as error:
        assert "Apply failed with 1 conflict" in json.loads(error.body)["message"]
    else:
        raise AssertionError("no conflict")


def main():
    config.load_kube_config()
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    assert client.VersionApi().get_code().git_version.startswith("v1.35")
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    until("the service account", lambda: core.list_namespaced_service_account(NAMESPACE).items)
    pods(core)
    deployments(core, apps)
    dynamic_client()
    review = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    assert client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed
    core.delete_namespace(NAMESPACE)


main()
