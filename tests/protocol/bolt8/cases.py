"""One published case of each BOLT 8 file, so that a lone clone checks it (BOLT 8, "Appendix A")."""

HANDSHAKE = {
    "ls_initiator": "11" * 32,
    "e_initiator": "12" * 32,
    "ls_responder": "21" * 32,
    "e_responder": "22" * 32,
    "initiator_id": "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa",
    "responder_id": "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7",
    "act_one": "00036360e856310ce5d294e8be33fc807077dc56ac80d95d9cd4ddbd21325eff73f7"
    "0df6086551151f58b8afe6c195782c6a",
    "act_two": "0002466d7fcae563e5cb09a0d1870bb580344804617879a14949cf22285f1bae3f27"
    "6e2470b93aac583c9ef6eafca3f730ae",
    "act_three": "00b9e3a702e93e3a9948c2ed6e5fd7590a6e1c3a0344cfc9d5b57357049aa22355"
    "361aa02e55a8fc28fef5bd6d71ad0c38228dc68b1c466263b47fdf31e560e139ba",
    "sk": "969ab31b4d288cedf6218839b27a3e2140827047f2c0f01bf5c04435d43511a9",
    "rk": "bb9020b8965f4df047e07f955f3c4b88418984aadc5cdb35096b9ea8fa5c3442",
    "ck": "919219dbb2920afa8db80f9a51787a840bcf111ed8d588caf9ab4be716e42b01",
}
FRAMES = {
    0: "cf2b30ddf0cf3f80e7c35a6e6730b59fe802473180f396d88a8fb0db8cbcf25d2f214cf9ea1d95",
    500: "178cb9d7387190fa34db9c2d50027d21793c9bc2d40b1e14dcf30ebeeeb220f48364f7a4c68bf8",
    1001: "2ecd8c8a5629d0d02ab457a0fdd0f7b90a192cd46be5ecb6ca570bfc5e268338b1a16cf4ef2d36",
}
