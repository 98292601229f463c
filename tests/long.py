"""The tests that `make test` leaves out and .ci/run has: each takes long, and guards something rare.

Marked here and not where they stand, so that the list can be weighed as a whole. The seconds are those of one
process beside another on two cores of an Intel Xeon, with Python 3.13.
"""

import pytest

LONG = {
    # Runs that are killed, stopped or made longer (430 s).
    "train/test_progress.py::test_a_damaged_best_makes_room_for_the_next",
    "train/test_progress.py::test_killed_at_any_moment",
    "train/test_progress.py::test_killed_while_the_best_was_being_written",
    "train/test_progress.py::test_made_longer_where_the_end_alone_was_scored",
    "train/test_progress.py::test_the_newest_checkpoint_is_damaged_and_the_best_is_newer",
    "train/test_progress.py::test_what_evaluations_took_is_known_after_a_stop",
    "train/test_resume.py::test_asked_to_stop_while_it_evaluates",
    "train/test_resume.py::test_cut_short_and_then_made_longer",
    "train/test_resume.py::test_unread_it_saves_and_ends_quietly",
    "config/test_bad_input.py::test_damaged_checkpoint_falls_back_to_the_one_before",
    "config/test_bad_input.py::test_diverging_run_in_a_process_of_its_own",
    "config/test_bad_input.py::test_nan_in_the_loss_stops_and_keeps_the_last_good_state",
    "search/index/test_killed.py::test_killed_at_each_operation",
    "search/server/test_serve.py::test_ends_though_a_photo_is_never_decoded",
    # Whole runs under rare settings (330 s).
    "cross/test_main.py::test_a_run_and_its_backbone_score_what_the_run_said",
    "data/test_prefetch.py::test_a_run_without_tensorflow_is_the_same_run",
    "data/tfds_builders/test_read.py::test_a_run_from_records_is_the_run_from_the_folder",
    "tools/test_build_clip_mini.py::test_from_nothing_to_a_folder",
    "train/test_best_epoch.py::test_of_equal_epochs_on_val_the_first_is_kept",
    "train/test_loop.py::test_a_finished_run_is_scored_on_another_number_of_devices",
    "train/test_loop.py::test_a_schedule_that_no_milestone_meets_is_said",
    "train/test_loop.py::test_eval_every_0_evaluates_once_at_the_end",
    "train/test_loop.py::test_frozen_weights_are_the_folders",
    "train/test_loop.py::test_log_every_leaves_out_steps_but_not_the_last",
    "train/test_loop.py::test_without_val_and_evaluation_only_at_the_end",
    "train/test_protocols.py::test_best_on_test_where_it_is_asked_for",
    "train/test_skipping.py::test_a_run_on_own_data_with_more_mixed_in",
    "train/test_skipping.py::test_a_run_that_skips_says_what_and_resumes",
    "weights/test_image_constants.py::test_a_run_its_evaluation_and_its_model",
    "weights/test_image_constants.py::test_training_normalizes_as_the_folder_says",
    # Every method, config or setting in turn; each of a kind stays quick elsewhere (1000 s).
    "config/test_configs.py::test_the_readme_lists_every_config_and_what_it_trains",
    "config/test_keys.py::test_every_loss_has_its_weight",
    "config/test_keys.py::test_the_key_does_what_its_row_says",
    "config/test_method_keys.py::test_the_setting_does_what_its_row_says",
    "config/test_method_keys.py::test_the_setting_of_a_part_does_what_its_row_says",
    "config/test_starts.py::test_every_trained_leaf_gets_a_gradient_and_zero_starts_are_clip",
    "distributed/test_sharding.py::test_each_loss_and_its_gradient_is_that_of_the_whole_batch",
    "models/test_transformer.py::test_a_loop_gives_the_same_numbers_under_the_same_names",
    "test_golden.py::test_four_optimizer_steps",
    "train/test_methods.py::test_two_steps",
    "train/test_objective.py::test_in_parts_as_whole",
    "train/test_objective.py::test_masked_words_are_scored_where_prompts_shift_them",
    # Speed, compilers and other programs (120 s).
    "aot/test_main.py::test_it_compiles_for_four_devices_and_says_what_they_take",
    "bench/test_cases.py::test_a_step_trains",
    "bench/test_growth.py::test_a_real_series",
    "bench/test_input.py::test_a_short_run",
    "data/test_tokenizer.py::test_a_benchmark_is_tokenized_in_seconds",
    "export/test_export.py::test_by_tensorflow_alone",
    "train/test_step.py::test_compiled_ahead_it_computes_the_same",
    "utils/test_streams.py::test_a_search_on_a_terminal_in_ascii",
}
# Of these the one with this parameter stays in `make test`.
QUICK = {
    "config/test_starts.py::test_every_trained_leaf_gets_a_gradient_and_zero_starts_are_clip[lora]",
    "test_golden.py::test_four_optimizer_steps[dm_adapter]",
    "train/test_resume.py::test_cut_short_and_then_made_longer[6]",
}


def mark(items: list[pytest.Item]) -> None:
    """Gives the tests of the list the marker `long`."""
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name not in QUICK and name.partition("[")[0] in LONG:
            item.add_marker(pytest.mark.long)
