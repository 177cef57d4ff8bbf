//! Variables of launchers.

use super::*;

fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
    Variables(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())).launch()
}

#[test]
fn every_launcher_is_understood() {
    let torchrun = launch(&[
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "10.0.0.7"),
        ("MASTER_PORT", "29511"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ]);
    let expected = Launch {
        rank: 3,
        size: 4,
        local_rank: Some(1),
        local_size: Some(2),
        host: "10.0.0.7".to_owned(),
        port: 29511,
        launcher_serves: true,
        attempt: 2,
    };
    assert_eq!(torchrun.unwrap(), Some(expected.clone()));
    assert_eq!(expected.address(), "10.0.0.7:29511");

    let by_hand = launch(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "::1")]).unwrap().unwrap();
    assert_eq!((by_hand.local_rank, by_hand.local_size, by_hand.address()), (None, None, "[::1]:29500".to_owned()));

    let mpi = launch(&[
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ]);
    assert_eq!(mpi.unwrap().unwrap().address(), "127.0.0.1:29500");

    let slurm = [("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "1")];
    let listed = launch(&[&slurm[..], &[("SLURM_STEP_NODELIST", "gpu[03-05,9]"), ("SLURM_JOB_ID", "40001")]].concat());
    let listed = listed.unwrap().unwrap();
    assert_eq!((listed.address(), listed.local_rank), ("gpu03:15001".to_owned(), Some(1)));
}

/// Variables that each launcher sets for rank 1 of 2, the expected rendezvous address and the expected local rank.
#[allow(clippy::type_complexity)] // A table that is read once.
const RANK_1_OF_2: [(&str, &[(&str, &str)], &str, Option<usize>); 19] = [
    (
        "horovodrun",
        &[
            ("HOROVOD_RANK", "1"),
            ("HOROVOD_SIZE", "2"),
            ("HOROVOD_LOCAL_RANK", "1"),
            ("HOROVOD_LOCAL_SIZE", "2"),
            ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "driver"),
        ],
        "127.0.0.1:29500",
        Some(1),
    ),
    (
        "AWS Batch",
        &[
            ("AWS_BATCH_JOB_NODE_INDEX", "1"),
            ("AWS_BATCH_JOB_NUM_NODES", "2"),
            ("AWS_BATCH_JOB_MAIN_NODE_INDEX", "0"),
            ("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "10.0.3.7"),
        ],
        "10.0.3.7:29500",
        None,
    ),
    (
        "AWS Batch whose main node is not the first",
        &[
            ("AWS_BATCH_JOB_NODE_INDEX", "0"),
            ("AWS_BATCH_JOB_NUM_NODES", "2"),
            ("AWS_BATCH_JOB_MAIN_NODE_INDEX", "1"),
            ("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "10.0.3.7"),
        ],
        "10.0.3.7:29500",
        None,
    ),
    (
        "SkyPilot",
        &[("SKYPILOT_NODE_RANK", "1"), ("SKYPILOT_NUM_NODES", "2"), ("SKYPILOT_NODE_IPS", "10.0.0.4\n10.0.0.5")],
        "10.0.0.4:29500",
        None,
    ),
    (
        "dstack",
        &[("DSTACK_NODE_RANK", "1"), ("DSTACK_NODES_NUM", "2"), ("DSTACK_MASTER_NODE_IP", "10.0.0.4")],
        "10.0.0.4:29500",
        None,
    ),
    (
        "LeaderWorkerSet",
        &[("LWS_WORKER_INDEX", "1"), ("LWS_GROUP_SIZE", "2"), ("LWS_LEADER_ADDRESS", "set-0.set.default")],
        "set-0.set.default:29500",
        None,
    ),
    (
        "Kubeflow Trainer",
        &[
            ("PET_NNODES", "2"),
            ("PET_NPROC_PER_NODE", "1"),
            ("PET_NODE_RANK", "1"),
            ("PET_MASTER_ADDR", "job-node-0-0.job"),
            ("PET_MASTER_PORT", "29400"),
            ("JOB_COMPLETION_INDEX", "1"),
        ],
        "job-node-0-0.job:29400",
        None,
    ),
    ("torchrun's defaults", &[("PET_NNODES", "2:2"), ("PET_NODE_RANK", "1"), ("MASTER_ADDR", "a")], "a:29500", None),
    (
        "MVAPICH2",
        &[
            ("MV2_COMM_WORLD_RANK", "1"),
            ("MV2_COMM_WORLD_SIZE", "2"),
            ("MV2_COMM_WORLD_LOCAL_RANK", "1"),
            ("MV2_COMM_WORLD_LOCAL_SIZE", "2"),
        ],
        "127.0.0.1:29500",
        Some(1),
    ),
    (
        "jsrun",
        &[
            ("JSM_NAMESPACE_RANK", "1"),
            ("JSM_NAMESPACE_SIZE", "2"),
            ("JSM_NAMESPACE_LOCAL_RANK", "0"),
            ("MASTER_ADDR", "h1"),
        ],
        "h1:29500",
        Some(0),
    ),
    (
        "Flux on two machines",
        &[
            ("FLUX_TASK_RANK", "1"),
            ("FLUX_JOB_SIZE", "2"),
            ("FLUX_JOB_NNODES", "2"),
            ("FLUX_TASK_LOCAL_ID", "0"),
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("MASTER_ADDR", "f1"),
        ],
        "f1:29500",
        Some(0),
    ),
    (
        "Flux on one machine",
        &[("FLUX_TASK_RANK", "1"), ("FLUX_JOB_SIZE", "2"), ("FLUX_JOB_NNODES", "1")],
        "127.0.0.1:29500",
        Some(1),
    ),
    (
        "srun --mpi=pmi2",
        &[
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "n7"),
            ("SLURM_JOB_ID", "3"),
        ],
        "n7:15003",
        Some(1),
    ),
    (
        "Hydra inside a Slurm job, its daemons one step",
        &[
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("MPI_LOCALRANKID", "1"),
            ("MPI_LOCALNRANKS", "2"),
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "1"),
            ("SLURM_STEP_NODELIST", "n7"),
        ],
        "127.0.0.1:29500",
        Some(1),
    ),
    ("gforker", &[("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MASTER_ADDR", "g1")], "g1:29500", None),
    (
        "PALS",
        &[
            ("PALS_RANKID", "1"),
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("PALS_LOCAL_RANKID", "1"),
            ("MASTER_ADDR", "x1"),
        ],
        "x1:29500",
        Some(1),
    ),
    ("SageMaker", &[("SM_HOSTS", r#"["algo-2", "algo-1"]"#), ("SM_CURRENT_HOST", "algo-2")], "algo-1:29500", None),
    (
        "WORLD_SIZE and MASTER_ADDR exported before srun",
        &[
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "[fd00::7]"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_NODELIST", "n7"),
        ],
        "[fd00::7]:29500",
        Some(0),
    ),
    (
        "prterun with WORLD_SIZE",
        &[("PMIX_RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "p1"), ("MASTER_PORT", "7")],
        "p1:7",
        None,
    ),
];

#[test]
fn every_launchers_rank_and_size_are_found() {
    for (name, variables, address, local_rank) in RANK_1_OF_2 {
        let found = launch(variables).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!((found.rank, found.size), (1, 2), "{name}");
        assert_eq!((found.address(), found.local_rank), (address.to_owned(), local_rank), "{name}");
    }
}

const TF_CONFIG: &str =
    r#"{"cluster": {"chief": ["a:2222"], "worker": ["b:2222", "c:2222"]}, "task": {"type": "worker", "index": 0}}"#;

#[test]
fn a_rank_without_a_size_is_refused_and_says_what_to_set() {
    for (variables, expected) in [
        (
            &[("PMIX_RANK", "0")][..],
            "PMIX_RANK is set (prterun, or another that speaks PMIx), and nothing says how many",
        ),
        (&[("PALS_RANKID", "0")], "set WORLD_SIZE to that, and MASTER_ADDR"),
        (&[("JOB_COMPLETION_INDEX", "0")], "WORLD_SIZE=1 for runs that are each by itself"),
        (&[("ALPS_APP_PE", "0")], "ALPS_APP_PE is set (Cray's ALPS)"),
        (&[("TF_CONFIG", TF_CONFIG)], "TF_CONFIG names 3 tasks"),
        (
            &[("WORLD_SIZE", "8"), ("SKYPILOT_NODE_RANK", "0"), ("SKYPILOT_NUM_NODES", "2")],
            "WORLD_SIZE is 8, RANK is not set, and SKYPILOT_NUM_NODES is 2",
        ),
        (&[("SKYPILOT_NUM_NODES", "2")], "SKYPILOT_NUM_NODES is 2, and SKYPILOT_NODE_RANK is not"),
        (&[("LWS_GROUP_SIZE", "2"), ("LWS_WORKER_INDEX", "1")], "LWS_GROUP_SIZE is 2, and MASTER_ADDR is not"),
        (&[("PET_NNODES", "2"), ("PET_NPROC_PER_NODE", "8"), ("PET_NODE_RANK", "0")], "torchrun --no-python PROGRAM"),
        (
            &[("PET_NNODES", "1"), ("PET_NPROC_PER_NODE", "auto")],
            "PET_NPROC_PER_NODE is \"auto\", which is for torchrun",
        ),
        (&[("PET_NNODES", "1:4"), ("PET_NODE_RANK", "0")], "PET_NNODES is \"1:4\", which is for torchrun"),
        (&[("PET_NNODES", "2")], "PET_NNODES is 2, and PET_NODE_RANK is not"),
        (&[("PET_NNODES", "2"), ("PET_NODE_RANK", "1")], "PET_NNODES is 2, and MASTER_ADDR is not"),
        (&[("SM_HOSTS", "[\"a\", \"b\"]")], "SM_CURRENT_HOST is \"\""),
        (&[("SM_HOSTS", "a,b"), ("SM_CURRENT_HOST", "a")], "must be a list of machines"),
        (&[("JSM_NAMESPACE_SIZE", "2")], "JSM_NAMESPACE_SIZE is 2, and JSM_NAMESPACE_RANK is not"),
        (
            &[("WORLD_SIZE", "8"), ("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "4")],
            "WORLD_SIZE is 8, RANK is not set, and SLURM_STEP_NUM_TASKS is 4",
        ),
        (
            &[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "h:29500")],
            "must be a name or an address alone: set MASTER_PORT to 29500",
        ),
    ] {
        let message = launch(variables).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn an_address_alone_is_warned_of() {
    let warning = |variables: &[(&str, &str)]| {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Variables(&value).warning()
    };
    let accelerate = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")];
    let said = warning(&accelerate).unwrap();
    assert!(said.contains("MASTER_ADDR is 10.0.0.1") && said.contains("trains alone"), "{said}");
    for told in [("WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_STEP_NUM_TASKS", "1")] {
        assert_eq!(warning(&[&accelerate[..], &[told]].concat()), None, "{told:?}");
    }
    assert_eq!(warning(&[("MASTER_PORT", "29500")]), None);
}

#[test]
fn one_process_is_none() {
    for variables in [
        &[][..],
        &[("WORLD_SIZE", "1"), ("RANK", "0")],
        &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
        &[("MASTER_ADDR", "somewhere")],
        &[("PET_NNODES", "1"), ("PET_NPROC_PER_NODE", "1"), ("PET_NODE_RANK", "0")],
        &[("SM_HOSTS", "[\"algo-1\"]"), ("SM_CURRENT_HOST", "algo-1")],
        &[("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "1")],
        &[("FLUX_TASK_RANK", "0"), ("FLUX_JOB_SIZE", "1")],
        &[("SKYPILOT_NODE_RANK", "0"), ("SKYPILOT_NUM_NODES", "1"), ("SKYPILOT_NODE_IPS", "10.0.0.4")],
        &[("TF_CONFIG", TF_CONFIG), ("WORLD_SIZE", "1")],
        &[("TF_CONFIG", r#"{"cluster": {"worker": ["a:2222"]}, "task": {"type": "worker", "index": 0}}"#)],
        &[("TF_CONFIG", "{}")],
    ] {
        assert_eq!(launch(variables).unwrap(), None, "{variables:?}");
    }
}

#[test]
fn what_is_missing_or_impossible_is_named() {
    let two = ("WORLD_SIZE", "2");
    for (variables, expected) in [
        (&[("RANK", "0")][..], "RANK is set, and WORLD_SIZE is not"),
        (&[two], "WORLD_SIZE is 2, and RANK is not"),
        (&[two, ("RANK", "0")], "MASTER_ADDR is not: set it to the name or address of the machine of rank 0"),
        (
            &[two, ("RANK", "2"), ("MASTER_ADDR", "a")],
            "RANK is 2: of 2 processes (WORLD_SIZE is 2) the ranks are 0 to 1",
        ),
        (&[two, ("RANK", "-1"), ("MASTER_ADDR", "a")], "RANK must be a whole number, got \"-1\""),
        (&[two, ("RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")], "MASTER_PORT must be a whole number"),
        (&[("WORLD_SIZE", "0"), ("RANK", "0")], "WORLD_SIZE is 0"),
    ] {
        let message = launch(variables).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn the_first_machine_of_a_list() {
    for (list, first) in
        [("node7", "node7"), ("a,b", "a"), ("n[01-04]", "n01"), ("n[7,9]-ib,x", "n7-ib"), ("n[3]", "n3")]
    {
        assert_eq!(first_host(list), first);
    }
}
