"""The tests that only `make test-long` runs: each takes long and covers a rare case.

They are marked here instead of in their files, so that the list can be reviewed as a whole. The seconds are
from one of two processes on two cores of an Intel Xeon, with Python 3.13.
"""

from pathlib import Path

import pytest

LONG = {
    # Runs that are killed, stopped or made longer (430 s).
    "adapt/test_main.py::test_a_process_is_stopped_and_resumed",
    "train/test_progress.py::test_removes_a_damaged_best",
    "train/test_progress.py::test_killed_at_any_moment",
    "train/test_progress.py::test_killed_while_saving_the_best",
    "train/test_progress.py::test_longer_rerun_keeps_a_best_state_at_the_old_end",
    "train/test_progress.py::test_damaged_newest_checkpoint_with_a_newer_best",
    "train/test_progress.py::test_seconds_include_evaluations_after_the_last_checkpoint",
    "train/test_rerank.py::test_of_a_run",
    "train/test_resume.py::test_stops_during_an_evaluation",
    "train/test_resume.py::test_resumes_a_shorter_run",
    "train/test_resume.py::test_saves_and_ends_quietly_on_a_closed_pipe",
    "config/test_bad_input.py::test_damaged_checkpoint_falls_back_to_the_one_before",
    "config/test_bad_input.py::test_diverging_run_in_a_process_of_its_own",
    "config/test_bad_input.py::test_nan_in_the_loss_stops_and_keeps_the_last_good_state",
    "search/index/test_forget.py::test_killed_at_every_file_operation",
    "search/index/test_killed.py::test_killed_at_every_file_operation",
    "search/server/test_serve.py::test_stops_while_decoding_hangs",
    # Whole runs under rare settings (330 s).
    "adapt/test_run.py::test_an_adapter_keeps_its_parts_or_its_layer_norms",
    "adapt/test_run.py::test_each_setting_matters",
    "cross/test_main.py::test_scores_of_a_run_and_its_backbone",
    "data/test_prefetch.py::test_a_run_without_tensorflow_is_the_same_run",
    "data/tfds_builders/test_read.py::test_a_run_from_records_is_the_run_from_the_folder",
    "tools/test_build_clip_mini.py::test_builds_a_folder_from_scratch",
    "tools/test_score_hard.py::test_the_command",
    "test_siglip_commands.py::test_export",
    "test_siglip_commands.py::test_training_with_all_losses",
    "train/test_teacher.py::test_a_run_learns_from_another",
    "train/test_best_epoch.py::test_keeps_the_first_of_equal_epochs_on_val",
    "train/test_eval_run.py::test_evaluates_on_another_number_of_devices",
    "train/test_provenance.py::test_resumes_on_moved_data_but_not_on_other_data",
    "train/test_loop.py::test_reports_milestones_beyond_the_last_epoch",
    "train/test_loop.py::test_eval_every_0_evaluates_once_at_the_end",
    "train/test_loop.py::test_frozen_weights_do_not_change",
    "train/test_loop.py::test_log_every_always_logs_the_last_step",
    "train/test_loop.py::test_run_without_val_split",
    "train/test_pretrain.py::test_pretrains_without_splits_and_adapts_from_the_run",
    "train/test_protocols.py::test_best_on_test_if_asked_for",
    "train/test_skipping.py::test_run_on_a_folder_with_a_mixture",
    "train/test_skipping.py::test_run_reports_skipped_images_and_resumes",
    "weights/test_image_constants.py::test_run_evaluation_and_saved_model_agree",
    "weights/test_image_constants.py::test_training_uses_the_mean_and_std_of_the_folder",
    # Every method, config or setting in turn; each of a kind stays quick elsewhere (1200 s).
    "config/test_configs.py::test_the_readme_lists_every_config_and_what_it_trains",
    "config/test_debug.py::test_a_config_of_deeper_towers_runs",
    "config/test_debug.py::test_every_config_runs_on_towers_of_one_block",
    "config/test_keys.py::test_every_loss_has_its_weight",
    "config/test_keys.py::test_the_key_does_what_its_row_says",
    "config/test_method_keys.py::test_the_setting_does_what_its_row_says",
    "config/test_method_keys.py::test_the_setting_of_a_part_does_what_its_row_says",
    "config/test_starts.py::test_every_trained_leaf_gets_a_gradient_and_zero_starts_are_clip",
    "distributed/test_sharding.py::test_losses_and_gradients_are_those_of_the_whole_batch",
    "models/test_siglip.py::test_every_method_trains",
    "models/test_transformer.py::test_scan_matches_the_unrolled_blocks",
    "test_golden.py::test_four_optimizer_steps",
    "train/test_methods.py::test_two_steps",
    "train/test_objective.py::test_microbatches_give_the_loss_and_gradient_of_the_whole",
    "train/test_objective.py::test_masked_words_are_scored_where_prompts_shift_them",
    "weights/test_siglip.py::test_saved_methods",
    # Speed, compilers and other programs (120 s).
    "aot/test_main.py::test_compiles_for_four_devices_and_reports",
    "bench/test_cases.py::test_train_step_decreases_the_loss",
    "bench/test_growth.py::test_measures_a_real_series",
    "bench/test_input.py::test_short_run",
    "reproduce/test_measure.py::test_measures_a_run",
    "export/test_export.py::test_runs_with_tensorflow_alone",
    "train/test_step.py::test_compile_in_background_computes_the_same",
    "utils/test_streams.py::test_a_search_on_a_terminal_in_ascii",
    # Rare types, servers and installations, one test each (80 s).
    "bench/test_subjects.py::test_checkpoint_is_saved_and_restored",
    "data/mini_pedes/test_captions.py::test_pretrain_captions_are_short_coarse_and_true",
    "export/test_export.py::test_narrow_types_are_smaller_and_report_their_error",
    "export/test_export.py::test_other_methods",
    "models/test_tpu_attention.py::test_a_mesh_computes_each_row_once",
    "models/test_tpu_attention.py::test_gradients_match_the_reference",
    "models/test_tpu_attention.py::test_matches_numpy",
    "perf/test_compilation_cache.py::test_a_second_process_compiles_nothing",
    "search/server/test_connections.py::test_closes_a_thousand_slow_connections",
    "search/server/test_connections.py::test_waits_for_a_slow_server",
    "test_makefile.py::test_a_lock_is_installed_as_it_says_or_not_at_all",
    "train/test_step.py::test_losses_with_heads_in_bfloat16",
    "utils/test_numba_cache.py::test_a_read_only_package_without_a_home",
    "utils/test_numba_cache.py::test_commands_run_there",
    "weights/test_hub.py::test_an_index_is_of_the_revision_that_was_asked_for",
    "weights/test_image_constants.py::test_adapted_merged_and_plain_models_keep_mean_and_std",
}
# The variant with this parameter stays in `make test`.
QUICK = {
    "config/test_starts.py::test_every_trained_leaf_gets_a_gradient_and_zero_starts_are_clip[lora]",
    "export/test_export.py::test_other_methods[up_person]",
    "models/test_siglip.py::test_every_method_trains[dm_adapter]",
    "models/test_tpu_attention.py::test_gradients_match_the_reference[float32]",
    "models/test_tpu_attention.py::test_matches_numpy[float32]",
    "perf/test_compilation_cache.py::test_a_second_process_compiles_nothing[True]",
    "test_golden.py::test_four_optimizer_steps[dm_adapter]",
    "weights/test_siglip.py::test_saved_methods[dm_adapter]",
}


def holds(path: Path) -> bool:
    """Returns whether a file has a test of the list."""
    return any(path.as_posix().endswith(f"tests/{name.partition('::')[0]}") for name in LONG)


def mark(items: list[pytest.Item]) -> None:
    """Gives the tests of the list the marker `long`."""
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name not in QUICK and name.partition("[")[0] in LONG:
            item.add_marker(pytest.mark.long)
