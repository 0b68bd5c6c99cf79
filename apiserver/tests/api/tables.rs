//! The columns of server-side tables, kind by kind, as kubectl knows them.

use crate::Server;
use crate::cases::reads::{Admin, value};

/// Path of the collection; columns: `!` integer, `?` boolean, `@` date, `#` formatted as a name, otherwise text; `*` only in wide tables.
const COLUMNS: &[(&str, &str)] = &[
    (
        "api/v1/pods",
        "#Name|Ready|Status|Restarts|Age|IP*|Node*|Nominated Node*|Readiness Gates*",
    ),
    ("api/v1/podtemplates", "#Name|Containers|Images|Pod Labels"),
    (
        "api/v1/replicationcontrollers",
        "#Name|!Desired|!Current|!Ready|Age|Containers*|Images*|Selector*",
    ),
    (
        "api/v1/services",
        "#Name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector*",
    ),
    ("api/v1/endpoints", "#Name|Endpoints|Age"),
    (
        "api/v1/nodes",
        "#Name|Status|Roles|Age|Version|Internal-IP*|External-IP*|OS-Image*|Kernel-Version*|Container-Runtime*",
    ),
    (
        "api/v1/events",
        "Last Seen|Type|Reason|Object|Subobject*|Source*|Message|First Seen*|Count*|#Name*",
    ),
    (
        "apis/events.k8s.io/v1/events",
        "Last Seen|Type|Reason|Object|Subobject*|Source*|Message|First Seen*|Count*|#Name*",
    ),
    ("api/v1/namespaces", "#Name|Status|Age"),
    ("api/v1/secrets", "#Name|Type|Data|Age"),
    ("api/v1/configmaps", "#Name|Data|Age"),
    ("api/v1/serviceaccounts", "#Name|Secrets|Age"),
    (
        "api/v1/persistentvolumes",
        "#Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|VolumeMode*",
    ),
    (
        "api/v1/persistentvolumeclaims",
        "#Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|VolumeMode*",
    ),
    ("api/v1/resourcequotas", "#Name|Request|Limit|Age"),
    ("api/v1/limitranges", "#Name|@Created At"),
    (
        "apis/apps/v1/deployments",
        "#Name|Ready|Up-to-date|Available|Age|Containers*|Images*|Selector*",
    ),
    (
        "apis/apps/v1/replicasets",
        "#Name|!Desired|!Current|!Ready|Age|Containers*|Images*|Selector*",
    ),
    (
        "apis/apps/v1/daemonsets",
        "#Name|!Desired|!Current|!Ready|!Up-to-date|!Available|Node Selector|Age|Containers*|Images*|Selector*",
    ),
    ("apis/apps/v1/statefulsets", "#Name|Ready|Age|Containers*|Images*"),
    ("apis/apps/v1/controllerrevisions", "#Name|Controller|Revision|Age"),
    (
        "apis/batch/v1/jobs",
        "#Name|Status|Completions|Duration|Age|Containers*|Images*|Selector*",
    ),
    (
        "apis/batch/v1/cronjobs",
        "#Name|Schedule|Timezone|?Suspend|!Active|Last Schedule|Age|Containers*|Images*|Selector*",
    ),
    (
        "apis/policy/v1/poddisruptionbudgets",
        "#Name|Min Available|Max Unavailable|!Allowed Disruptions|Age",
    ),
    (
        "apis/autoscaling/v2/horizontalpodautoscalers",
        "#Name|Reference|Targets|MinPods|MaxPods|Replicas|Age",
    ),
    (
        "apis/autoscaling/v1/horizontalpodautoscalers",
        "#Name|Reference|Targets|MinPods|MaxPods|Replicas|Age",
    ),
    (
        "apis/networking.k8s.io/v1/ingresses",
        "#Name|Class|Hosts|Address|Ports|Age",
    ),
    (
        "apis/networking.k8s.io/v1/ingressclasses",
        "#Name|Controller|Parameters|Age",
    ),
    ("apis/networking.k8s.io/v1/networkpolicies", "#Name|Pod-Selector|Age"),
    ("apis/networking.k8s.io/v1/servicecidrs", "#Name|CIDRs|Age"),
    ("apis/networking.k8s.io/v1/ipaddresses", "#Name|ParentRef"),
    ("apis/rbac.authorization.k8s.io/v1/roles", "#Name|@Created At"),
    ("apis/rbac.authorization.k8s.io/v1/clusterroles", "#Name|@Created At"),
    (
        "apis/rbac.authorization.k8s.io/v1/rolebindings",
        "#Name|Role|Age|Users*|Groups*|ServiceAccounts*",
    ),
    (
        "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "#Name|Role|Age|Users*|Groups*|ServiceAccounts*",
    ),
    (
        "apis/certificates.k8s.io/v1/certificatesigningrequests",
        "#Name|Age|SignerName|Requestor|RequestedDuration|Condition",
    ),
    ("apis/coordination.k8s.io/v1/leases", "#Name|Holder|Age"),
    (
        "apis/storage.k8s.io/v1/storageclasses",
        "#Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age",
    ),
    ("apis/storage.k8s.io/v1/volumeattributesclasses", "#Name|DriverName|Age"),
    (
        "apis/storage.k8s.io/v1/volumeattachments",
        "#Name|#Attacher|PV|Node|?Attached|Age",
    ),
    ("apis/storage.k8s.io/v1/csinodes", "#Name|!Drivers|Age"),
    (
        "apis/storage.k8s.io/v1/csidrivers",
        "#Name|?AttachRequired|?PodInfoOnMount|?StorageCapacity|TokenRequests|?RequiresRepublish|Modes|Age",
    ),
    (
        "apis/storage.k8s.io/v1/csistoragecapacities",
        "#Name|StorageClassName|Capacity",
    ),
    (
        "apis/scheduling.k8s.io/v1/priorityclasses",
        "#Name|!Value|?Global-Default|Age|PreemptionPolicy",
    ),
    ("apis/node.k8s.io/v1/runtimeclasses", "#Name|Handler|Age"),
    (
        "apis/discovery.k8s.io/v1/endpointslices",
        "#Name|AddressType|Ports|Endpoints|Age",
    ),
    (
        "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        "#Name|!Webhooks|Age",
    ),
    (
        "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "#Name|!Webhooks|Age",
    ),
    (
        "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        "#Name|!Validations|ParamKind|Age",
    ),
    (
        "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
        "#Name|PolicyName|ParamRef|Age",
    ),
    (
        "apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
        "#Name|PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL",
    ),
    (
        "apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
        "#Name|Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age",
    ),
    ("apis/resource.k8s.io/v1/deviceclasses", "#Name|Age"),
    ("apis/resource.k8s.io/v1/resourceclaims", "#Name|State|Age"),
    ("apis/resource.k8s.io/v1/resourceclaimtemplates", "#Name|Age"),
    ("apis/resource.k8s.io/v1/resourceslices", "#Name|Node|Driver|Pool|Age"),
    (
        "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "#Name|@Created At",
    ),
    (
        "apis/apiregistration.k8s.io/v1/apiservices",
        "#Name|Service|Available|Age",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_has_its_columns() {
    let (server, _) = Server::start().await;
    let http = Admin::new(&server);
    let mut wrong = Vec::new();
    for (path, wanted) in COLUMNS {
        let (_, body) = http
            .get(
                &format!("/{path}"),
                &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")],
            )
            .await;
        let table = value(&body);
        let columns = table["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|column| {
                let kind = match (column["type"].as_str().unwrap(), column["format"].as_str().unwrap()) {
                    ("string", "") => "",
                    ("string", "name") => "#",
                    ("integer", "") => "!",
                    ("boolean", "") => "?",
                    ("date", "") => "@",
                    other => panic!("{path}: {other:?}"),
                };
                let wide = if column["priority"] == 1 { "*" } else { "" };
                format!("{kind}{}{wide}", column["name"].as_str().unwrap())
            });
        let found = columns.collect::<Vec<_>>().join("|");
        if found != *wanted {
            wrong.push(format!("{path}\n  wanted {wanted}\n  found  {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed = api::resources::all().iter().filter(|kind| kind.verbs.contains(&"list"));
    for kind in listed {
        let known = COLUMNS
            .iter()
            .any(|(path, _)| path.ends_with(&format!("/{}", kind.resource)));
        assert!(
            known || kind.resource.starts_with("mutatingadmission") || kind.resource == "componentstatuses",
            "{}",
            kind.resource
        );
    }
    server.stop().await;
}
